"""The device engine on plain torch, float32: the reference that other engines are held against."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.head_networks import Eagle3Head, load_published_head
from adapters.networks import BlockAdapter as BlockNetwork
from adapters.networks import FedAdapter as FedNetwork
from adapters.networks import load_network
from adapters.storage import StoredAdapter, num_layers_of
from device_runtime.engines.bundle_adapter import (
    draft_limits,
    draft_vocabulary,
    head_reads,
    new_adapter_state,
    new_head_state,
    stored_adapter,
)
from device_runtime.engines.checks import num_threads
from device_runtime.engines.draft_model import DraftModel
from device_runtime.engines.engine import Rows, StackCache
from device_runtime.engines.submodel_engine import SubmodelEngine, Submodels, engine_limits
from submodels.bundle.bundle import Bundle, load_bundle
from submodels.bundle.layer_weights import Linear, Placed, load_embedding
from submodels.bundle.layers import (
    Head,
    LayerCache,
    load_head,
    load_layers,
    rms_norm,
    run_layers,
)
from submodels.tensors.tensor_layout import Part

_RunRows = Callable[[torch.Tensor, int, Sequence[LayerCache]], torch.Tensor]


def load_torch_engine(
    bundle_path: Path,
    threads: int | None,
    max_context_tokens: int | None,
    with_adapter: bool = False,
) -> SubmodelEngine:
    """The engine of a device bundle, whole in memory.

    `threads` None takes all cores but one (torch keeps the number for the whole process),
    `max_context_tokens` None the model's own. It drafts with the bundle's adapter, if there is
    one, only `with_adapter`.

    Raises:
        BundleError: no usable bundle.
        ValueError: a context longer than the model's, or no thread.
    """
    bundle = load_bundle(bundle_path, "device")
    limits = engine_limits(bundle.manifest, max_context_tokens)
    torch.set_num_threads(num_threads(threads))
    placed = Placed()
    table = load_embedding(bundle, placed)

    def embed(token_ids: NDArray[np.int64]) -> Rows:
        return _rows(table[torch.from_numpy(token_ids)])

    def new_cache(part: Part) -> Callable[[], StackCache] | None:
        layers = load_layers(bundle, part, placed)
        run_rows = partial(run_layers, layers)
        return (lambda: TorchCache(run_rows, [LayerCache() for _ in layers])) if layers else None

    head = load_head(bundle, placed)
    draft_model = _draft_model(bundle, head, table) if with_adapter else None
    new_input, new_output = new_cache(Part.INPUT), new_cache(Part.OUTPUT)
    submodels = Submodels(embed, new_input, new_output, _numpy(head), draft_model)
    return SubmodelEngine(submodels, limits)


def _draft_model(bundle: Bundle, head: Head, table: torch.Tensor) -> DraftModel | None:
    stored = stored_adapter(bundle)
    if stored is None:
        return None
    if stored.card.head is not None:
        return _published_head(bundle, stored, head)
    network = load_network(stored)
    hidden_size = stored.card.shape.hidden_size

    def run_rows(rows: torch.Tensor, position: int, caches: Sequence[LayerCache]) -> torch.Tensor:
        if isinstance(network, BlockNetwork):
            return network.extend_rows(rows, position, caches)
        if not isinstance(network, FedNetwork):
            return network.extend(rows, position, caches[0])
        shallow, previous = rows[:, :hidden_size], rows[:, hidden_size:-1]
        return network.extend(shallow, position, caches[0], previous, rows[:, -1] > 0)

    def new_cache() -> StackCache:
        return TorchCache(run_rows, [LayerCache() for _ in range(num_layers_of(stored.card.kind))])

    vocabulary = draft_vocabulary(stored)
    if vocabulary is not None:
        head = replace(head, lm_head=Linear(head.lm_head.weight[torch.from_numpy(vocabulary)]))
    return DraftModel(
        new_adapter_state(bundle, stored, new_cache),
        _numpy(head),
        draft_limits(stored),
        vocabulary,
        block=TorchBlockHead(network, head, table) if isinstance(network, BlockNetwork) else None,
    )


def _published_head(bundle: Bundle, stored: StoredAdapter, target: Head) -> DraftModel:
    network = load_published_head(stored)
    hidden_size = stored.card.shape.hidden_size

    def run_rows(rows: torch.Tensor, position: int, caches: Sequence[LayerCache]) -> torch.Tensor:
        embedded, previous = rows[:, :hidden_size], rows[:, hidden_size:-1]
        return network.extend(embedded, position, caches[0], previous)

    if isinstance(network, Eagle3Head):
        features, logits = _numpy(network.fuse), _numpy(network.logits)
    else:
        features = _numpy(lambda rows: rms_norm(rows, target.norm, target.eps))
        logits = _numpy(target.lm_head)
    reads = head_reads(stored)

    def new_cache() -> StackCache:
        return TorchCache(run_rows, [LayerCache()])

    return DraftModel(
        new_head_state(bundle, new_cache, features, reads),
        logits,
        draft_limits(stored),
        draft_vocabulary(stored),
        is_published_head=True,
        taps=reads.taps,
    )


class TorchBlockHead:
    """A `BlockHead`; `head` is of the tokens that can be drafted, `table` `[V, H]` of all."""

    def __init__(self, network: BlockNetwork, head: Head, table: torch.Tensor) -> None:
        self.block_size = network.block_size
        self.network = network
        self.head = head
        self.table = table

    @torch.inference_mode()
    def begin(self, estimates: Rows) -> "_TorchBlock":
        return _TorchBlock(self, _tensor(estimates))


class _TorchBlock:
    def __init__(self, parts: TorchBlockHead, estimates: torch.Tensor) -> None:
        self._parts = parts
        self._final = rms_norm(estimates, parts.head.norm, parts.head.eps)
        self._inner = parts.network.sequel.read(self._final)
        self._state = parts.network.sequel.begin(self._final)
        self._place = 0

    @torch.inference_mode()
    def next(self, token_id: int | None) -> Rows:
        sequel, place = self._parts.network.sequel, self._place
        read = self._final[place]
        if token_id is not None:
            embedded = self._parts.table[token_id].float()
            self._state = sequel.step(self._inner[place], embedded, self._state)
            read = read + sequel.out(self._state)
        self._place += 1
        logits: Rows = self._parts.head.lm_head(read[None])[0].numpy()
        return logits


class TorchCache:
    """A `StackCache` on the reference layers, or on an adapter.

    `run_rows` maps rows `[T, H]`, their position and the caches to rows `[T, H]`.
    """

    def __init__(self, run_rows: _RunRows, caches: Sequence[LayerCache]) -> None:
        self._run_rows = run_rows
        self._caches = caches

    @property
    def num_tokens(self) -> int:
        """Positions held; setting a smaller number is the truncation."""
        return self._caches[0].length

    @num_tokens.setter
    def num_tokens(self, num_tokens: int) -> None:
        for cache in self._caches:
            cache.length = num_tokens

    @torch.inference_mode()
    def run(self, rows: Rows, position: int) -> Rows:
        return _rows(self._run_rows(_tensor(rows), position, self._caches))

    @torch.inference_mode()
    def fork(self, num_tokens: int) -> "TorchCache":
        return TorchCache(self._run_rows, [cache.fork(num_tokens) for cache in self._caches])


def _numpy(run: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Rows], Rows]:
    @torch.inference_mode()
    def on_rows(rows: Rows) -> Rows:
        return _rows(run(_tensor(rows)))

    return on_rows


def _tensor(rows: Rows) -> torch.Tensor:
    return torch.tensor(np.ascontiguousarray(rows))


def _rows(tensor: torch.Tensor) -> Rows:
    rows: Rows = tensor.numpy()
    return rows

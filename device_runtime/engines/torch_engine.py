"""The device engine on plain torch, float32: the reference that other engines are held against."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.networks import AdapterNetwork, load_network
from device_runtime.engines.bundle_adapter import draft_limits, stored_adapter
from device_runtime.engines.checks import context_limit, num_threads
from device_runtime.engines.draft_model import DraftModel
from device_runtime.engines.engine import Rows
from device_runtime.engines.stack_cache import StackCache
from device_runtime.engines.submodel_engine import EngineLimits, SubmodelEngine, Submodels
from submodels.bundle.bundle import Bundle, load_bundle
from submodels.bundle.layer_weights import Placed, load_embedding
from submodels.bundle.layers import (
    DecoderLayer,
    Head,
    LayerCache,
    load_head,
    load_layers,
    run_layers,
)
from submodels.tensors.tensor_layout import Part


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
    shape = bundle.manifest.shape
    limits = EngineLimits(
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        max_context_tokens=context_limit(shape.max_context_tokens, max_context_tokens),
        num_output_layers=bundle.manifest.num_output_layers,
    )
    torch.set_num_threads(num_threads(threads))
    placed = Placed()
    table = load_embedding(bundle, placed)

    def embed(token_ids: NDArray[np.int64]) -> Rows:
        return _rows(table[torch.from_numpy(token_ids)])

    def new_cache(part: Part) -> Callable[[], StackCache] | None:
        layers = load_layers(bundle, part, placed)
        return (lambda: TorchStackCache(layers, [LayerCache() for _ in layers])) if layers else None

    head = _head(load_head(bundle, placed))
    draft_model = _draft_model(bundle, head) if with_adapter else None
    new_input, new_output = new_cache(Part.INPUT), new_cache(Part.OUTPUT)
    return SubmodelEngine(Submodels(embed, new_input, new_output, head, draft_model), limits)


def _draft_model(bundle: Bundle, head: Callable[[Rows], Rows]) -> DraftModel | None:
    stored = stored_adapter(bundle)
    if stored is None:
        return None
    network = load_network(stored)
    return DraftModel(lambda: TorchAdapterCache(network, LayerCache()), head, draft_limits(stored))


class TorchStackCache:
    """A `StackCache` on the reference layers."""

    def __init__(self, layers: Sequence[DecoderLayer], caches: Sequence[LayerCache]) -> None:
        self._layers = layers
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
        """See `StackCache.run`."""
        return _rows(run_layers(self._layers, _tensor(rows), position, self._caches))

    @torch.inference_mode()
    def fork(self, num_tokens: int) -> "TorchStackCache":
        """See `StackCache.fork`."""
        return TorchStackCache(self._layers, [cache.fork(num_tokens) for cache in self._caches])


class TorchAdapterCache:
    """A `StackCache` on an adapter."""

    def __init__(self, network: AdapterNetwork, cache: LayerCache) -> None:
        self._network = network
        self._cache = cache

    @property
    def num_tokens(self) -> int:
        """Positions held; setting a smaller number is the truncation."""
        return self._cache.length

    @num_tokens.setter
    def num_tokens(self, num_tokens: int) -> None:
        self._cache.length = num_tokens

    @torch.inference_mode()
    def run(self, rows: Rows, position: int) -> Rows:
        """See `StackCache.run`."""
        return _rows(self._network.extend(_tensor(rows), position, self._cache))

    @torch.inference_mode()
    def fork(self, num_tokens: int) -> "TorchAdapterCache":
        """See `StackCache.fork`."""
        return TorchAdapterCache(self._network, self._cache.fork(num_tokens))


def _head(head: Head) -> Callable[[Rows], Rows]:
    @torch.inference_mode()
    def logits(rows: Rows) -> Rows:
        return _rows(head(_tensor(rows)))

    return logits


def _tensor(rows: Rows) -> torch.Tensor:
    return torch.tensor(np.ascontiguousarray(rows))


def _rows(tensor: torch.Tensor) -> Rows:
    rows: Rows = tensor.numpy()
    return rows

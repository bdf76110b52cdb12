"""Drafts of an adapter from every place of a text at once, each as the device would make it there.

The layers that draft read the text once, with what the device knows of it by then; a chain from
each place then goes on token by token, all chains side by side. They share the text's keys and
values and add their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.data.whole_model import WholeModel
from adapters.networks import AdapterNetwork, BlockAdapter, FedAdapter, load_network
from adapters.storage import AdapterCard, StoredAdapter, load_adapter
from bench.drafters.drafts.block import BlockDrafts
from bench.drafters.texts.blocks import Block, block_of_adapter, block_of_layer, causal, grouped
from bench.drafters.texts.choosing import Choice
from bench.drafters.texts.kept import Text
from submodels.bundle.layer_weights import Linear
from submodels.bundle.layers import Head, embed


@dataclass(frozen=True, slots=True)
class NetworkDrafts:
    """Drafts from each of `S` starts, both arrays `[S, k]`: tokens, and how sure of each.

    Draft s follows token s of the answer. `confidences` are the largest probabilities at
    temperature 1, over the tokens that can be drafted.
    """

    token_ids: NDArray[np.int64]
    confidences: NDArray[np.float64]

    def until_unsure(self, threshold: float) -> list[tuple[int, ...]]:
        """Each draft up to the first token that is less likely than the threshold."""
        lengths = np.cumprod(self.confidences >= threshold, axis=1).sum(1)
        pairs = zip(self.token_ids.tolist(), lengths.tolist(), strict=True)
        return [tuple(token_ids[:length]) for token_ids, length in pairs]


class NetworkDrafter:
    """A stored adapter in float32, for the model that it was trained for.

    Raises:
        AdapterError: no adapter there, or one for another model or split.
    """

    def __init__(self, model: WholeModel, folder: Path) -> None:
        stored = load_adapter(folder, model.manifest)
        self.card: AdapterCard = stored.card
        self._model = model
        self._network: AdapterNetwork = load_network(stored)
        self._inputs = [block_of_layer(layer) for layer in model.input_layers]
        self._adapter = block_of_adapter(self._network, stored.card.shape)
        self._vocabulary, self._head = _draft_head(model, stored)
        self._blocks = (
            BlockDrafts(model, self._network, stored.draft_vocabulary())
            if isinstance(self._network, BlockAdapter)
            else None
        )

    @property
    def num_parameters(self) -> int:
        """Of the adapter."""
        return sum(parameter.numel() for parameter in self._network.parameters())

    @torch.inference_mode()
    def drafts(self, text: Text, choose: Choice, num_tokens: int) -> NetworkDrafts:
        """A draft of `num_tokens` behind every token of the answer but the last."""
        if text.num_starts == 0:
            empty = np.empty((0, num_tokens))
            return NetworkDrafts(empty.astype(np.int64), empty)
        token_ids = [*text.case.token_ids, *text.answer[:-1]]
        first = len(text.case.token_ids)
        starts = torch.arange(first, len(token_ids))
        deep = torch.from_numpy(text.deep[: text.num_starts])
        if self._blocks is not None:
            found, shares = self._blocks.drafts(token_ids, starts, deep, choose, num_tokens)
            return NetworkDrafts(found.numpy(), shares.double().numpy())
        estimates, pasts = self._read(token_ids, starts, deep)
        tokens: list[Tensor] = []
        confidences: list[Tensor] = []
        for step in range(num_tokens):
            positions = starts + step + 1
            logits = self._head(estimates)
            tokens.append(choose(positions, logits, self._vocabulary))
            confidences.append(logits.softmax(-1).amax(-1))
            if step + 1 < num_tokens:
                estimates = self._step(tokens[-1], positions, estimates, pasts)
        return NetworkDrafts(
            torch.stack(tokens, 1).numpy(), torch.stack(confidences, 1).double().numpy()
        )

    def _read(
        self, token_ids: Sequence[int], starts: Tensor, deep: Tensor
    ) -> "tuple[Tensor, list[_Past]]":
        """Estimates `[S, H]` at the starts, and what every layer remembers of the text.

        `deep` `[S, H]` came down before each start: of the prompt only its last position's.
        """
        rows, positions = embed(self._model.embedding, token_ids), torch.arange(len(token_ids))
        pasts: list[_Past] = []
        for block in self._inputs:
            pasts.append(_Past(block, starts))
            rows = block.forward(rows, positions, pasts[-1].read)
        if isinstance(self._network, FedAdapter):
            previous = torch.zeros_like(rows)
            previous[starts] = deep
            rows = self._network.feed(rows, previous, positions >= starts[0])
        pasts.append(_Past(self._adapter, starts))
        return self._adapter.forward(rows, positions, pasts[-1].read)[starts], pasts

    def _step(
        self, tokens: Tensor, positions: Tensor, estimates: Tensor, pasts: "Sequence[_Past]"
    ) -> Tensor:
        """Estimates `[S, H]` at the next place of every chain, fed with those before it."""
        rows = self._model.embedding[tokens]
        for block, past in zip(self._inputs, pasts[:-1], strict=True):
            rows = block.forward(rows, positions, past.go_on)
        if isinstance(self._network, FedAdapter):
            rows = self._network.feed(rows, estimates, torch.ones(len(rows), dtype=torch.bool))
        return self._adapter.forward(rows, positions, pasts[-1].go_on)


def _draft_head(model: WholeModel, stored: StoredAdapter) -> tuple[Tensor | None, Head]:
    """The ids that can be drafted, None for all, and the head that says how likely each is."""
    ids = stored.draft_vocabulary()
    if ids is None:
        return None, model.head
    vocabulary, whole = torch.from_numpy(ids).long(), model.head
    bias = whole.lm_head.bias
    rows = Linear(whole.lm_head.weight[vocabulary], None if bias is None else bias[vocabulary])
    return vocabulary, replace(whole, lm_head=rows)


class _Past:
    """One layer's keys and values: the text's `[L, KV, D]`, and those of each chain behind it."""

    def __init__(self, block: Block, starts: Tensor) -> None:
        self._window = block.window
        self._num_heads = block.shape.num_key_value_heads
        self._starts = starts
        self._keys = self._values = torch.empty(0)
        self._chain_keys: list[Tensor] = []
        self._chain_values: list[Tensor] = []

    def read(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of the text's own rows."""
        self._keys, self._values = keys, values
        return causal(queries, keys, values, self._window)

    def go_on(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of each chain's next row `[S, heads, D]`: the text up to its start, and itself.

        Softmax over both parts together.
        """
        self._chain_keys.append(keys)
        self._chain_values.append(values)
        chain_keys, chain_values = torch.stack(self._chain_keys), torch.stack(self._chain_values)
        split = grouped(queries, self._num_heads) * queries.shape[-1] ** -0.5
        of_text = torch.einsum("skgd,pkd->skgp", split, self._keys)
        of_chain = torch.einsum("skgd,cskd->skgc", split, chain_keys)
        visible = self._visible(len(chain_keys))[:, None, None]
        scores = torch.cat((of_text, of_chain), -1).masked_fill(~visible, float("-inf"))
        weights = scores.softmax(-1)
        num_text = len(self._keys)
        mixed = torch.einsum("skgp,pkd->skgd", weights[..., :num_text], self._values)
        mixed += torch.einsum("skgc,cskd->skgd", weights[..., num_text:], chain_values)
        return mixed.flatten(1, 2)

    def _visible(self, num_chain: int) -> Tensor:
        """Which keys each chain's newest row sees, `[S, L + chain]`."""
        starts = self._starts[:, None]
        text, chain = torch.arange(len(self._keys)), torch.arange(1, num_chain + 1)
        places = torch.cat((text.expand(len(starts), -1), starts + chain), 1)
        is_past = torch.cat((text <= starts, torch.ones(len(starts), num_chain).bool()), 1)
        if self._window is None:
            return is_past
        return is_past & (places > starts + num_chain - self._window)

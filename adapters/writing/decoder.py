"""Many sequences through the whole model side by side, one token each per step.

A step multiplies every weight with the rows of all slots at once, which costs little more than
with one row. Shapes: `B` slots, `T` new rows, `S` positions, `KV` key-value heads of `G` queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.data.whole_model import WholeModel
from submodels.bundle.layers import Attend, Scores

_SPAN = 64
"""Keys are attended to in multiples of so many."""

_SLOTS_TOGETHER = 16
"""So many slots attend to as many keys as the longest of them has."""

_Part = tuple[slice, int]
"""Slots that attend together, and the number of their keys."""


class BatchDecoder:
    """The whole model with a cache of fixed size for each of `num_slots` sequences."""

    def __init__(self, model: WholeModel, num_slots: int, max_tokens: int) -> None:
        self._model = model
        self._layers = [*model.input_layers, *model.middle_layers, *model.output_layers]
        self.num_slots = num_slots
        self.max_tokens = max_tokens
        self._device = model.embedding.device
        shapes = [layer.shape for layer in self._layers]
        sizes = [(num_slots, s.num_key_value_heads, max_tokens, s.head_dim) for s in shapes]
        dtype = model.embedding.dtype
        self._keys = [torch.zeros(size, dtype=dtype, device=self._device) for size in sizes]
        self._values = [torch.zeros(size, dtype=dtype, device=self._device) for size in sizes]

    @torch.inference_mode()
    def read(self, token_ids: Sequence[int], slots: slice) -> None:
        """Fill the first positions of some slots with the same tokens."""
        if token_ids:
            num_slots = len(range(*slots.indices(self.num_slots)))
            tokens = torch.tensor(token_ids, device=self._device)
            first = torch.zeros(num_slots, dtype=torch.long, device=self._device)
            self._run(tokens.expand(num_slots, -1), first, slots, [len(token_ids)] * num_slots)

    @torch.inference_mode()
    def step(self, token_ids: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Top rows `[B, H]` after one token each, at its position, of the first `B` slots."""
        tokens = torch.tensor(token_ids, device=self._device)[:, None]
        starts = torch.tensor(positions, device=self._device)
        num_keys = [position + 1 for position in positions]
        return self._run(tokens, starts, slice(0, len(token_ids)), num_keys)[:, -1]

    @torch.inference_mode()
    def logits(self, rows: Tensor) -> Tensor:
        """float32 logits `[N, V]` of top rows `[N, H]`."""
        return self._model.head(rows).float()

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        """Give a slot the contents of another."""
        for cache in (*self._keys, *self._values):
            cache[target] = cache[source]

    def _run(self, tokens: Tensor, starts: Tensor, slots: slice, num_keys: Sequence[int]) -> Tensor:
        """Rows `[B, T, H]` of tokens `[B, T]` through all layers and their caches."""
        rows = self._model.embedding[tokens]
        parts = self._parts(num_keys)
        positions = starts[:, None] + torch.arange(tokens.shape[1], device=starts.device)
        for index, layer in enumerate(self._layers):
            caches = _Caches(self._keys[index][slots], self._values[index][slots])
            sees = caches.attend(positions, parts, layer.window, layer.scores)
            rows = layer.through(rows, positions, sees)
        return rows

    def _parts(self, num_keys: Sequence[int]) -> list[_Part]:
        """Slots that lie side by side, with the keys that the longest of them has, rounded up."""
        firsts = range(0, len(num_keys), _SLOTS_TOGETHER)
        parts = [slice(first, min(first + _SLOTS_TOGETHER, len(num_keys))) for first in firsts]
        spans = [-(-max(num_keys[part]) // _SPAN) for part in parts]
        return [
            (part, min(self.max_tokens, span * _SPAN))
            for part, span in zip(parts, spans, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class _Caches:
    """One layer's keys and values of some slots, `[B, KV, capacity, D]`."""

    keys: Tensor
    values: Tensor

    def attend(
        self, positions: Tensor, parts: Sequence[_Part], window: int | None, how: Scores
    ) -> Attend:
        """Attention of rows at positions `[B, T]`, whose own keys and values are put there."""
        slots = torch.arange(len(positions), device=positions.device)[:, None]

        def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            self.keys[slots, :, positions], self.values[slots, :, positions] = keys, values
            mixed = [
                _mixed(
                    queries[part],
                    self.keys[part, :, :num_keys],
                    self.values[part, :, :num_keys],
                    _hidden(positions[part], num_keys, window),
                    how,
                )
                for part, num_keys in parts
            ]
            return torch.cat(mixed)

        return attend


def _mixed(queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor, how: Scores) -> Tensor:
    """Values mixed for queries `[B, T, heads, D]`; `submodels.bundle.layers.attend` is the law."""
    num_rows = queries.shape[1]
    by_group = queries.unflatten(2, (keys.shape[1], -1)).permute(0, 2, 1, 3, 4)  # type: ignore[no-untyped-call]
    # Keys before queries: in bfloat16 a third of the time of the other way on a CPU.
    products = keys @ by_group.flatten(2, 3).transpose(2, 3)
    scores = products.transpose(2, 3).unflatten(2, (num_rows, -1))
    scores = scores * (queries.shape[-1] ** -0.5 if how.scale is None else how.scale)
    if how.softcap is not None:
        scores = torch.tanh(scores / how.softcap) * how.softcap
    scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    if how.sinks is not None:
        sinks = how.sinks.to(scores.dtype).view(keys.shape[1], 1, -1, 1)
        scores = torch.cat((scores, sinks.expand(*scores.shape[:-1], 1)), dim=-1)
    shares = torch.softmax(scores.flatten(2, 3), dim=-1, dtype=torch.float32).to(values.dtype)
    shares = shares[..., : keys.shape[2]]
    mixed = (shares @ values).view_as(by_group)
    return mixed.permute(0, 2, 1, 3, 4).reshape(queries.shape)


def _hidden(positions: Tensor, num_keys: int, window: int | None) -> Tensor:
    """Which keys a row must not see, `[B, 1, T, 1, S]`."""
    keys = torch.arange(num_keys, device=positions.device)
    ends = positions[:, None, :, None, None]
    hidden = keys > ends
    return hidden if window is None else hidden | (keys <= ends - window)

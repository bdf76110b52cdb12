"""Many sequences through the whole model side by side, one token each per step.

A step multiplies every weight with the rows of all slots at once, which costs little more than
with one row. Shapes: `B` slots, `T` new rows, `S` positions, `KV` key-value heads of `G` queries.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from adapters.data.whole_model import WholeModel
from submodels.bundle.layers import ACTIVATIONS, DecoderLayer, rms_norm, rope_table

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
        shape, device = model.manifest.shape, model.embedding.device
        size = (num_slots, shape.num_key_value_heads, max_tokens, shape.head_dim)
        dtype = model.embedding.dtype
        self._keys = [torch.zeros(size, dtype=dtype, device=device) for _ in self._layers]
        self._values = [torch.zeros(size, dtype=dtype, device=device) for _ in self._layers]
        positions = torch.arange(max_tokens, device=device)
        self._cos, self._sin = rope_table(shape.rope, positions, dtype)

    @torch.inference_mode()
    def read(self, token_ids: Sequence[int], slots: slice) -> None:
        """Fill the first positions of some slots with the same tokens."""
        if token_ids:
            num_slots = len(range(*slots.indices(self.num_slots)))
            tokens = torch.tensor(token_ids, device=self._cos.device)
            first = self._cos.new_zeros(num_slots, dtype=torch.long)
            self._run(tokens.expand(num_slots, -1), first, slots, [len(token_ids)] * num_slots)

    @torch.inference_mode()
    def step(self, token_ids: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Top rows `[B, H]` after one token each, at its position, of the first `B` slots."""
        device = self._cos.device
        tokens = torch.tensor(token_ids, device=device)[:, None]
        starts = torch.tensor(positions, device=device)
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
        rows = self._model.embedding[tokens]
        parts = self._parts(num_keys)
        positions = starts[:, None] + torch.arange(tokens.shape[1], device=starts.device)
        for index, layer in enumerate(self._layers):
            caches = self._keys[index][slots], self._values[index][slots]
            rows = self._one_layer(layer, rows, positions, caches, parts)
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

    def _one_layer(
        self,
        layer: DecoderLayer,
        rows: Tensor,
        positions: Tensor,
        caches: tuple[Tensor, Tensor],
        parts: Sequence[_Part],
    ) -> Tensor:
        """Rows `[B, T, H]` at positions `[B, T]` through one layer and its caches."""
        weights, eps = layer.weights, layer.shape.rms_norm_eps
        normed = rms_norm(rows, weights.input_norm, eps)
        rows = rows + self._attention(layer, normed, positions, caches, parts)
        normed = rms_norm(rows, weights.post_attention_norm, eps)
        activation = ACTIVATIONS[layer.shape.hidden_act]
        return rows + weights.down(activation(weights.gate(normed)) * weights.up(normed))

    def _attention(
        self,
        layer: DecoderLayer,
        normed: Tensor,
        positions: Tensor,
        caches: tuple[Tensor, Tensor],
        parts: Sequence[_Part],
    ) -> Tensor:
        weights, shape = layer.weights, layer.shape
        head_dim, eps = shape.head_dim, shape.rms_norm_eps
        queries, keys, values = (
            linear(normed).view(*normed.shape[:2], -1, head_dim)
            for linear in (weights.q, weights.k, weights.v)
        )
        if weights.q_norm is not None and weights.k_norm is not None:
            queries = rms_norm(queries, weights.q_norm, eps)
            keys = rms_norm(keys, weights.k_norm, eps)
        queries, keys = self._turned(queries, positions), self._turned(keys, positions)
        slots = torch.arange(len(positions), device=positions.device)[:, None]
        caches[0][slots, :, positions], caches[1][slots, :, positions] = keys, values
        mixed = [
            _mixed(
                queries[part],
                caches[0][part, :, :num_keys],
                caches[1][part, :, :num_keys],
                _hidden(positions[part], num_keys, layer.window),
            )
            for part, num_keys in parts
        ]
        return weights.o(torch.cat(mixed))

    def _turned(self, heads: Tensor, positions: Tensor) -> Tensor:
        """Rotary embedding of `[B, T, heads, D]`."""
        half = heads.shape[-1] // 2
        turned = torch.cat((-heads[..., half:], heads[..., :half]), dim=-1)
        cos, sin = self._cos[positions][:, :, None], self._sin[positions][:, :, None]
        return heads * cos + turned * sin


def _mixed(queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
    """Values mixed for queries `[B, T, heads, D]`, as `[B, T, heads x D]`."""
    num_slots, num_rows, _, head_dim = queries.shape
    by_group = queries.unflatten(2, (keys.shape[1], -1)).permute(0, 2, 1, 3, 4)  # type: ignore[no-untyped-call]
    # Keys before queries: in bfloat16 a third of the time of the other way on a CPU.
    products = keys @ by_group.flatten(2, 3).transpose(2, 3)
    scores = products.transpose(2, 3).unflatten(2, (num_rows, -1)) * head_dim**-0.5
    scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).flatten(2, 3)
    shares = torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
    mixed = (shares @ values).view_as(by_group)
    return mixed.permute(0, 2, 1, 3, 4).reshape(num_slots, num_rows, -1)


def _hidden(positions: Tensor, num_keys: int, window: int | None) -> Tensor:
    """Which keys a row must not see, `[B, 1, T, 1, S]`."""
    keys = torch.arange(num_keys, device=positions.device)
    ends = positions[:, None, :, None, None]
    hidden = keys > ends
    return hidden if window is None else hidden | (keys <= ends - window)

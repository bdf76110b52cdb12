"""Reference decoder layers in plain torch: what every engine must equal.

Written for clarity; the arithmetic and its order follow transformers' eager models, so that
float32 results agree to rounding. Shapes: `T` new rows, `S` cached keys, `H` hidden, `D` head
size, `KV` key-value heads, `G` query heads per key-value head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from submodels.bundle.bundle import Bundle
from submodels.bundle.layer_weights import (
    LayerWeights,
    Linear,
    Placed,
    layer_indices,
    load_final_norm,
    load_layer_weights,
    load_lm_head,
)
from submodels.manifest import ModelShape, Rope
from submodels.tensors.tensor_layout import Part

ACTIVATIONS: MappingProxyType[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"silu": torch.nn.functional.silu}
)
"""The functions between gate and up projection, by their Hugging Face names."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries `[..., heads, D]`, keys and values `[..., KV, D]` of some rows, to what these rows see,
`[..., heads, D]`."""

_FIRST_CAPACITY = 64


class LayerCache:
    """Keys and values of one sequence in one layer; grows by doubling, shrinks by a number."""

    def __init__(self) -> None:
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def write(self, position: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put `[T, KV, D]` at `position`, forgetting what was there; return all `[S, KV, D]`.

        Raises:
            ValueError: `position` is not in `[0, length]`.
        """
        if not 0 <= position <= self.length:
            raise ValueError(f"expected a position in [0, {self.length}], got {position}")
        end = position + keys.shape[0]
        self._keys = _grown(self._keys, keys, position, end)
        self._values = _grown(self._values, values, position, end)
        self._keys[position:end] = keys
        self._values[position:end] = values
        self.length = end
        return self._keys[:end], self._values[:end]

    def fork(self, num_tokens: int) -> "LayerCache":
        """A new cache that starts as the first `num_tokens` positions of this one.

        Raises:
            ValueError: the cache is shorter.
        """
        if not 0 <= num_tokens <= self.length:
            raise ValueError(f"expected 0 to {self.length} tokens, got {num_tokens}")
        copy = LayerCache()
        if self._keys is not None and self._values is not None:
            copy.write(0, self._keys[:num_tokens], self._values[:num_tokens])
        return copy


def _grown(stored: Tensor | None, new: Tensor, num_kept: int, num_needed: int) -> Tensor:
    """Room for `num_needed` positions, with the first `num_kept` of `stored` in it."""
    if stored is not None and stored.shape[0] >= num_needed:
        return stored
    capacity = max(_FIRST_CAPACITY, num_needed, 2 * (0 if stored is None else stored.shape[0]))
    room = new.new_empty((capacity, *new.shape[1:]))
    if stored is not None:
        room[:num_kept] = stored[:num_kept]
    return room


def rms_norm(rows: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale the last dimension to root mean square 1, in float32, then by `weight`."""
    wide = rows.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(rows.dtype)


def rope_table(rope: Rope, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin `[..., D]` of the positions `[...]`, each frequency twice (both half planes)."""
    inv_freq = torch.tensor(rope.inv_freq, dtype=torch.float32, device=positions.device)
    angles = positions.float()[..., None] * inv_freq
    angles = torch.cat((angles, angles), dim=-1)
    scale = rope.attention_scaling
    return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of `[..., heads, D]` in the half-split layout of Hugging Face weights."""
    half = heads.shape[-1] // 2
    turned = torch.cat((-heads[..., half:], heads[..., :half]), dim=-1)
    return heads * cos[..., None, :] + turned * sin[..., None, :]


def visible_keys(positions: Tensor, num_keys: int, window: int | None) -> Tensor:
    """Which keys each query sees, boolean `[T, S]`: the past and itself, within the window."""
    keys = torch.arange(num_keys, device=positions.device)
    queries = positions[:, None]
    seen = keys <= queries
    return seen if window is None else seen & (keys > queries - window)


def attend(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Grouped-query attention: `[T, KV, G, D]` over `[S, KV, D]`, softmax in float32."""
    scores = torch.einsum("tkgd,skd->kgts", queries, keys) * queries.shape[-1] ** -0.5
    scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
    return torch.einsum("kgts,skd->tkgd", weights, values)


def over_cache(cache: LayerCache, position: int, window: int | None) -> Attend:
    """Attention of a sequence's rows from `position` on, over all that the cache then holds.

    The cache is cut there first. Raises `ValueError` for a position beyond what it holds.
    """

    def written(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        all_keys, all_values = cache.write(position, keys, values)
        positions = torch.arange(position, position + len(queries), device=queries.device)
        grouped = queries.view(len(queries), keys.shape[1], -1, queries.shape[-1])
        visible = visible_keys(positions, all_keys.shape[0], window)
        return attend(grouped, all_keys, all_values, visible).flatten(1, 2)

    return written


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One decoder layer; `window` is how many keys a query sees, itself included."""

    weights: LayerWeights
    shape: ModelShape
    window: int | None

    def forward(self, rows: Tensor, position: int, cache: LayerCache) -> Tensor:
        """Hidden states `[T, H]` after this layer of rows at `[position, position + T)`.

        A position below the cached length truncates the cache first.

        Raises:
            ValueError: a position beyond what the cache holds.
        """
        positions = torch.arange(position, position + rows.shape[0], device=rows.device)
        return self.through(rows, positions, over_cache(cache, position, self.window))

    def through(self, rows: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Rows `[..., H]` at positions `[...]` after this layer; `attend` says what they see."""
        weights, eps = self.weights, self.shape.rms_norm_eps
        normed = rms_norm(rows, weights.input_norm, eps)
        rows = rows + self._attention(normed, positions, attend)
        normed = rms_norm(rows, weights.post_attention_norm, eps)
        activation = ACTIVATIONS[self.shape.hidden_act]
        return rows + weights.down(activation(weights.gate(normed)) * weights.up(normed))

    def _attention(self, normed: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        weights = self.weights
        cos, sin = rope_table(self.shape.rope, positions, normed.dtype)
        queries = rotate(self._heads(normed, weights.q, weights.q_norm), cos, sin)
        keys = rotate(self._heads(normed, weights.k, weights.k_norm), cos, sin)
        values = self._heads(normed, weights.v, None)
        return weights.o(attend(queries, keys, values).flatten(-2))

    def _heads(self, normed: Tensor, linear: Linear, norm: Tensor | None) -> Tensor:
        """Projected rows as `[..., heads, D]`, normed per head where the family does."""
        heads = linear(normed).view(*normed.shape[:-1], -1, self.shape.head_dim)
        return heads if norm is None else rms_norm(heads, norm, self.shape.rms_norm_eps)


@dataclass(frozen=True, slots=True)
class Head:
    """Final norm and LM head: logits `[T, V]` of deep rows `[T, H]`."""

    norm: Tensor
    eps: float
    lm_head: Linear

    def __call__(self, rows: Tensor) -> Tensor:
        return self.lm_head(rms_norm(rows, self.norm, self.eps))


def run_layers(
    layers: Sequence[DecoderLayer], rows: Tensor, position: int, caches: Sequence[LayerCache]
) -> Tensor:
    """Rows `[T, H]` through all layers in order, each with its own cache."""
    for layer, cache in zip(layers, caches, strict=True):
        rows = layer.forward(rows, position, cache)
    return rows


def load_layers(bundle: Bundle, part: Part, placed: Placed) -> list[DecoderLayer]:
    """The decoder layers of a part, ready to run; an empty list where it holds none.

    Raises:
        BundleError: the bundle does not hold this part.
    """
    shape = bundle.manifest.shape
    windows = [shape.sliding_windows[index] for index in layer_indices(bundle, part)]
    weights = load_layer_weights(bundle, part, placed)
    return [DecoderLayer(w, shape, window) for w, window in zip(weights, windows, strict=True)]


def load_head(bundle: Bundle, placed: Placed) -> Head:
    """The final norm and LM head of a device bundle."""
    eps = bundle.manifest.shape.rms_norm_eps
    return Head(load_final_norm(bundle, placed), eps, Linear(load_lm_head(bundle, placed)))


def embed(table: Tensor, token_ids: Sequence[int]) -> Tensor:
    """Rows `[T, H]` of the embedding table for token ids."""
    return table[torch.tensor(token_ids, dtype=torch.long, device=table.device)]

"""Reference decoder layers in plain torch: what every engine must equal.

Written for clarity; the arithmetic and its order follow transformers' eager models, so that
float32 results agree to rounding. Shapes: `T` new rows, `S` cached keys, `H` hidden, `D` head
size, `KV` key-value heads, `G` query heads per key-value head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from submodels.bundle.bundle import Bundle
from submodels.bundle.layer_weights import (
    BesideWeights,
    ExpertWeights,
    GatedWeights,
    LayerWeights,
    Linear,
    Placed,
    layer_indices,
    load_final_norm,
    load_layer_weights,
    load_lm_head,
)
from submodels.manifest import Experts, ModelShape, Rope
from submodels.tensors.tensor_layout import Part

ACTIVATIONS: MappingProxyType[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "silu": torch.nn.functional.silu,
        "gelu_pytorch_tanh": partial(torch.nn.functional.gelu, approximate="tanh"),
    }
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


def layer_norm(rows: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Take off the mean of the last dimension and scale to deviation 1, then by `weight`."""
    wide = torch.nn.functional.layer_norm(rows.float(), weight.shape, weight.float(), None, eps)
    return wide.to(rows.dtype)


def norm_of(shape: ModelShape) -> Callable[[Tensor, Tensor, float], Tensor]:
    """The function that norms rows of a model by a weight, with an epsilon."""
    return rms_norm if shape.described.norm == "rms" else layer_norm


def rope_table(
    rope: Rope, positions: Tensor, dtype: torch.dtype, head_dim: int | None = None
) -> tuple[Tensor, Tensor]:
    """cos and sin `[..., D]` of the positions `[...]`, each frequency twice (both half planes).

    Frequencies that a head of `head_dim` numbers has no numbers for are zero, and unscaled.
    """
    inv_freq = torch.tensor(rope.inv_freq, dtype=torch.float32, device=positions.device)
    scales = torch.full_like(inv_freq, rope.attention_scaling)
    if head_dim is not None:
        still = (0, head_dim // 2 - len(rope.inv_freq))
        inv_freq = torch.nn.functional.pad(inv_freq, still)
        scales = torch.nn.functional.pad(scales, still, value=1.0)
    angles = positions.float()[..., None] * inv_freq
    angles, scales = torch.cat((angles, angles), dim=-1), torch.cat((scales, scales))
    return (angles.cos() * scales).to(dtype), (angles.sin() * scales).to(dtype)


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


@dataclass(frozen=True, slots=True)
class Scores:
    """What becomes of scores before the softmax: factor, cap, and a sink `[heads]` beside them."""

    scale: float | None = None
    softcap: float | None = None
    sinks: Tensor | None = None


PLAIN_SCORES = Scores()


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor, how: Scores = PLAIN_SCORES
) -> Tensor:
    """Grouped-query attention: `[T, KV, G, D]` over `[S, KV, D]`, softmax in float32."""
    scale = queries.shape[-1] ** -0.5 if how.scale is None else how.scale
    scores = torch.einsum("tkgd,skd->kgts", queries, keys) * scale
    if how.softcap is not None:
        scores = torch.tanh(scores / how.softcap) * how.softcap
    scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    if how.sinks is not None:
        sinks = how.sinks.view(*scores.shape[:2], 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat((scores, sinks.to(scores.dtype)), dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
    return torch.einsum("kgts,skd->tkgd", weights[..., : len(keys)], values)


def over_cache(
    cache: LayerCache, position: int, window: int | None, how: Scores = PLAIN_SCORES
) -> Attend:
    """Attention of a sequence's rows from `position` on, over all that the cache then holds.

    The cache is cut there first. Raises `ValueError` for a position beyond what it holds.
    """

    def written(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        all_keys, all_values = cache.write(position, keys, values)
        positions = torch.arange(position, position + len(queries), device=queries.device)
        grouped = queries.view(len(queries), keys.shape[1], -1, queries.shape[-1])
        visible = visible_keys(positions, all_keys.shape[0], window)
        return attend(grouped, all_keys, all_values, visible, how).flatten(1, 2)

    return written


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One decoder layer; `window` is how many keys a query sees, itself included.

    `shape` is that of the layer (`ModelShape.of_layer`); `rope` None is the shape's first.
    """

    weights: LayerWeights
    shape: ModelShape
    window: int | None
    rope: Rope | None = None

    @property
    def scores(self) -> Scores:
        """What its attention makes of scores; every `attend` that is given to `through` has to."""
        described = self.shape.described
        return Scores(self.shape.attention_scale, described.attention_softcap, self.weights.sinks)

    def forward(self, rows: Tensor, position: int, cache: LayerCache) -> Tensor:
        """Hidden states `[T, H]` after this layer of rows at `[position, position + T)`.

        A position below the cached length truncates the cache first.

        Raises:
            ValueError: a position beyond what the cache holds.
        """
        positions = torch.arange(position, position + rows.shape[0], device=rows.device)
        sees = over_cache(cache, position, self.window, self.scores)
        return self.through(rows, positions, sees)

    def through(self, rows: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Rows `[..., H]` at positions `[...]` after this layer; `attend` says what they see."""
        weights, described = self.weights, self.shape.described
        normed = self._norm(rows, weights.input_norm)
        update = self._norm(
            self._attention(normed, positions, attend), weights.after_attention_norm
        )
        if described.is_parallel:
            return rows + (update + self._feed_forward(normed, rows)) * described.residual_scale
        rows = rows + _scaled(update, described.residual_scale)
        normed = self._norm(rows, weights.post_attention_norm)
        update = self._norm(self._feed_forward(normed, rows), weights.after_mlp_norm)
        rows = rows + _scaled(update, described.residual_scale)
        return rows if weights.scalar is None else rows * weights.scalar

    def _norm(self, rows: Tensor, weight: Tensor | None) -> Tensor:
        if weight is None:
            return rows
        return norm_of(self.shape)(rows, weight, self.shape.rms_norm_eps)

    def _feed_forward(self, normed: Tensor, rows: Tensor) -> Tensor:
        """Of the stream, normed and as it is."""
        weights, experts = self.weights.feed_forward, self.shape.described.experts
        if isinstance(weights, GatedWeights):
            return self._gated(weights, normed)
        assert experts is not None, "weights are loaded by the description"
        if isinstance(weights, BesideWeights):
            gated = self._norm(self._gated(weights.gated, normed), weights.after_gated)
            chosen = self._router_rows(weights.experts, rows)
            made = self._experts(weights.experts, experts, self._norm(rows, weights.before), chosen)
            return gated + self._norm(made, weights.after)
        return self._experts(weights, experts, normed, normed)

    def _router_rows(self, weights: ExpertWeights, rows: Tensor) -> Tensor:
        """Rows as a router that has a scale reads them."""
        assert weights.router_scale is not None, "experts beside a gated half have one"
        normed = rms_norm(rows, rows.new_ones(()), self.shape.rms_norm_eps)
        return normed * weights.router_scale * float(self.shape.hidden_size**-0.5)

    def _gated(self, weights: GatedWeights, normed: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.shape.hidden_act]
        return weights.down(activation(weights.gate(normed)) * weights.up(normed))

    def _experts(
        self, weights: ExpertWeights, experts: Experts, stream: Tensor, chosen_by: Tensor
    ) -> Tensor:
        """Of rows `[..., H]` each through the experts that the router chooses by its other form."""
        normed = stream.flatten(0, -2)
        shares, chosen = route(weights.router(chosen_by.flatten(0, -2)), experts)
        if weights.expert_scale is not None:
            shares = shares * weights.expert_scale[chosen]
        update = torch.zeros_like(normed)
        for index in torch.unique(chosen).tolist():
            rows, places = torch.where(chosen == index)
            made = self._expert(weights.experts[index], experts, normed[rows])
            update.index_add_(0, rows, made * shares[rows, places, None])
        return update.view(stream.shape)

    def _expert(self, weights: GatedWeights, experts: Experts, rows: Tensor) -> Tensor:
        if experts.swiglu_limit is None:
            return self._gated(weights, rows)
        return weights.down(clamped_swiglu(weights.gate(rows), weights.up(rows), experts))

    def _attention(self, normed: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        weights, rope = self.weights, self.rope or self.shape.rope
        cos, sin = rope_table(rope, positions, normed.dtype, self.shape.head_dim)
        queries = rotate(self._heads(normed, weights.q, weights.q_norm), cos, sin)
        keys = rotate(self._heads(normed, weights.k, weights.k_norm), cos, sin)
        values = self._heads(normed, weights.v or weights.k, None)
        if self.shape.described.has_value_norm:
            values = rms_norm(values, values.new_ones(()), self.shape.rms_norm_eps)
        return weights.o(attend(queries, keys, values).flatten(-2))

    def _heads(self, normed: Tensor, linear: Linear, norm: Tensor | None) -> Tensor:
        """Projected rows as `[..., heads, D]`, normed per head or all together."""
        wide = linear(normed)
        if self.shape.described.qk_norm_over == "width":
            wide, norm = self._norm(wide, norm), None
        heads = wide.view(*normed.shape[:-1], -1, self.shape.head_dim)
        return self._norm(heads, norm)


def route(logits: Tensor, experts: Experts) -> tuple[Tensor, Tensor]:
    """Shares and numbers `[T, num_chosen]` of the experts chosen by a router's logits `[T, E]`."""
    shares = torch.softmax(logits.float(), dim=-1)
    shares, chosen = torch.topk(shares, experts.num_chosen, dim=-1)
    if experts.are_renormalised:
        shares = shares / shares.sum(dim=-1, keepdim=True)
    return shares.to(logits.dtype), chosen


def clamped_swiglu(gate: Tensor, up: Tensor, experts: Experts) -> Tensor:
    """What enters the down matrix of experts that have a limit (gpt-oss)."""
    limit = experts.swiglu_limit
    assert limit is not None, "asked for experts with a limit only"
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (up + 1) * (gate * torch.sigmoid(gate * experts.swiglu_alpha))


def _scaled(update: Tensor, scale: float) -> Tensor:
    return update if scale == 1 else update * scale


@dataclass(frozen=True, slots=True)
class Head:
    """Final norm and LM head: logits `[T, V]` of deep rows `[T, H]`.

    `shape` None: logits are as the matrix gives them, behind a norm by root mean square.
    """

    norm: Tensor
    eps: float
    lm_head: Linear
    shape: ModelShape | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        if self.shape is None:
            return self.lm_head(rms_norm(rows, self.norm, self.eps))
        described = self.shape.described
        logits = self.lm_head(norm_of(self.shape)(rows, self.norm, self.eps))
        logits = _scaled(logits, described.logit_scale)
        cap = described.logit_softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap


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
    weights = load_layer_weights(bundle, part, placed)
    indices = layer_indices(bundle, part)
    return [layer_at(shape, index, w) for index, w in zip(indices, weights, strict=True)]


def layer_at(shape: ModelShape, index: int, weights: LayerWeights) -> DecoderLayer:
    """Layer `index` of the whole model."""
    rope = shape.ropes[shape.rope_index(index)]
    return DecoderLayer(weights, shape.of_layer(index), shape.sliding_windows[index], rope)


def load_head(bundle: Bundle, placed: Placed) -> Head:
    """The final norm and LM head of a device bundle."""
    shape = bundle.manifest.shape
    lm_head = Linear(load_lm_head(bundle, placed))
    return Head(load_final_norm(bundle, placed), shape.rms_norm_eps, lm_head, shape)


def embed(table: Tensor, token_ids: Sequence[int]) -> Tensor:
    """Rows `[T, H]` of the embedding table for token ids."""
    return table[torch.tensor(token_ids, dtype=torch.long, device=table.device)]

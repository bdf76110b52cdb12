"""Decoder layers over many sequences at once, for a teacher and for drafters that never train.

`submodels.bundle.layers` runs one sequence at a time and is what engines are held against; here a
row may belong to any sequence, and who it attends to is the caller's business. Shapes: `N` rows
`[N, H]`, queries `[N, heads, D]`, keys and values `[N, KV, D]`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from adapters.networks import AdapterNetwork, LayerAdapter
from submodels.bundle.layers import (
    ACTIVATIONS,
    DecoderLayer,
    rms_norm,
    rope_table,
    rotate,
)
from submodels.manifest import ModelShape

RowFunction = Callable[[Tensor], Tensor]

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values of the same rows, to what these rows see, `[N, heads, D]`."""


@dataclass(frozen=True, slots=True)
class Block:
    """One decoder layer, of a model or of an adapter: its parts as functions of rows.

    `window` is how many keys a query sees, itself included, None for all. `finish` is what follows
    the attention's sum: the feed-forward half, where there is one, and a closing norm.
    """

    shape: ModelShape
    window: int | None
    norm: RowFunction
    project: tuple[RowFunction, RowFunction, RowFunction]
    head_norms: tuple[RowFunction, RowFunction] | None
    mix: RowFunction
    finish: RowFunction

    def forward(self, rows: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Rows `[N, H]` at positions `[N]` after this layer."""
        normed = self.norm(rows)
        queries, keys, values = (
            linear(normed).view(len(rows), -1, self.shape.head_dim) for linear in self.project
        )
        if self.head_norms is not None:
            queries, keys = self.head_norms[0](queries), self.head_norms[1](keys)
        cos, sin = rope_table(self.shape.rope, positions, normed.dtype)
        mixed = attend(rotate(queries, cos, sin), rotate(keys, cos, sin), values)
        return self.finish(rows + self.mix(mixed.flatten(1)))


def block_of_layer(layer: DecoderLayer) -> Block:
    """A layer of the model."""
    weights, shape = layer.weights, layer.shape
    normed = partial(_normed, eps=shape.rms_norm_eps)
    head_norms = None
    if weights.q_norm is not None and weights.k_norm is not None:
        head_norms = (normed(weights.q_norm), normed(weights.k_norm))
    norm, activation = normed(weights.post_attention_norm), ACTIVATIONS[shape.hidden_act]

    def finish(rows: Tensor) -> Tensor:
        inner = norm(rows)
        return rows + weights.down(activation(weights.gate(inner)) * weights.up(inner))

    return Block(
        shape=shape,
        window=layer.window,
        norm=normed(weights.input_norm),
        project=(weights.q, weights.k, weights.v),
        head_norms=head_norms,
        mix=weights.o,
        finish=finish,
    )


def block_of_adapter(network: AdapterNetwork, shape: ModelShape) -> Block:
    """An adapter's one layer of this shape (see `adapters.storage.adapter_shape`)."""

    def finish(rows: Tensor) -> Tensor:
        if isinstance(network, LayerAdapter):
            rows = rows + network.mlp(network.post_attention_layernorm(rows))
        closed: Tensor = network.closing_norm(rows)
        return closed

    attention = network.self_attn
    return Block(
        shape=shape,
        window=None,
        norm=network.input_layernorm,
        project=(attention.q_proj, attention.k_proj, attention.v_proj),
        head_norms=None,
        mix=attention.o_proj,
        finish=finish,
    )


def grouped(queries: Tensor, num_kv_heads: int) -> Tensor:
    """Queries `[N, heads, D]` as `[N, KV, G, D]`, those that share a key side by side."""
    return queries.view(len(queries), num_kv_heads, -1, queries.shape[-1])


def causal(queries: Tensor, keys: Tensor, values: Tensor, window: int | None) -> Tensor:
    """What each of the rows of one sequence sees of itself and those before it, from position 0."""
    num_rows = len(queries)
    places = torch.arange(num_rows, device=queries.device)
    visible = places[None, :] <= places[:, None]
    if window is not None:
        visible &= places[None, :] > places[:, None] - window
    heads = [each.transpose(0, 1)[None] for each in (queries, keys, values)]
    return attend(heads[0], heads[1], heads[2], visible)[0].transpose(0, 1)


def attend(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Attention of `[B, heads, T, D]` over `[B, KV, S, D]`, whose keys are visible or not."""
    attention = torch.nn.functional.scaled_dot_product_attention
    return attention(queries, keys, values, attn_mask=visible, enable_gqa=True)


def _normed(weight: Tensor, eps: float) -> RowFunction:
    return lambda rows: rms_norm(rows, weight, eps)

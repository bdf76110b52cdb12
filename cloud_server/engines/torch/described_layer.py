"""Decoder layers that are not Llama's, by their description, over the rows of a step.

Llama's own stay in `layer.py`, so that no step of theirs asks what a layer is.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from cloud_server.engines.torch.attention import SinkAttention
from cloud_server.engines.torch.layer import LayerSettings, MiddleLayer, Ragged, joined
from cloud_server.engines.torch.linear import Linear
from submodels.bundle.layer_weights import stacked_experts
from submodels.bundle.layers import clamped_swiglu, layer_norm, route
from submodels.manifest import LLAMA, Description, Experts, ModelShape
from submodels.tensors.tensor_layout import LAYER_SCALAR

Activation = Callable[[torch.Tensor], torch.Tensor]


def is_plain(shape: ModelShape) -> bool:
    """Whether `MiddleLayer` computes layers of this shape.

    What stands outside a layer, or in what is prepared once for all of them, it need not know.
    """
    described = shape.described
    inside = (
        *("before_attention", "after_attention", "before_mlp", "after_mlp", "is_parallel", "norm"),
        *("norm_offset", "qk_norm_over", "has_sinks", "residual_scale", "experts"),
        *("keys_are_values", "has_value_norm", "has_layer_scalar"),
    )
    return all(getattr(described, name) == getattr(LLAMA, name) for name in inside)


class DescribedLayer(MiddleLayer):
    """A layer as the shape's description says.

    Raises:
        UnsupportedModelError: an activation that is not known here.
    """

    _described: Description

    def _load_norms(self, tensors: Mapping[str, torch.Tensor], shape: ModelShape) -> None:
        self._described = described = shape.described
        names = (
            *(described.before_attention, described.after_attention),
            *(described.before_mlp, described.after_mlp),
        )
        self._norms = [tensors.get(f"{name}.weight") for name in names]
        self._head_norm = None
        if described.has_sinks:
            self._attention = SinkAttention(tensors["self_attn.sinks"], self._heads)
        self._query_norm = tensors.get("self_attn.q_norm.weight")
        self._key_norm = tensors.get("self_attn.k_norm.weight")
        self._scalar = tensors.get(LAYER_SCALAR)

    def _load_feed_forward(
        self, tensors: Mapping[str, torch.Tensor], settings: LayerSettings
    ) -> None:
        self._mixture = None
        self._beside: list[torch.Tensor] = []
        experts = self._described.experts
        if experts is None or experts.before:
            super()._load_feed_forward(tensors, settings)
        if experts is not None:
            self._mixture = _Mixture(experts, tensors, settings.packed)
        if experts is not None and experts.before:
            names = (experts.before, experts.after, experts.after_gated)
            self._beside = [tensors[f"{name}.weight"] for name in names]
            self._router_scale = tensors[experts.router_scale] * settings.shape.hidden_size**-0.5

    def forward(self, rows: torch.Tensor, ragged: Ragged) -> torch.Tensor:
        """The residual stream `[T, H]` after this layer; writes the new keys and values."""
        before_attention, after_attention, before_mlp, after_mlp = self._norms
        scale = self._described.residual_scale
        normed = self._normed(rows, before_attention)
        update = self._output(self._attend(self._qkv(normed), ragged))
        update = self._normed(update, after_attention)
        if self._described.is_parallel:
            return rows + (update + self._feed_forward(normed, rows)) * scale
        rows = torch.add(rows, update, alpha=scale)
        update = self._feed_forward(self._normed(rows, before_mlp), rows)
        rows = torch.add(rows, self._normed(update, after_mlp), alpha=scale)
        return rows if self._scalar is None else rows * self._scalar

    def _feed_forward(self, normed: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        if self._mixture is not None and not self._beside:
            return self._mixture.forward(normed, normed, self._activation)
        gate, up = self._gate_up(normed).chunk(2, dim=-1)
        update = self._down(self._activation(gate).mul_(up))
        if self._mixture is None:
            return update
        before, after, after_gated = self._beside
        routed = F.rms_norm(rows, (rows.shape[-1],), None, self._eps) * self._router_scale
        made = self._mixture.forward(self._normed(rows, before), routed, self._activation)
        return self._normed(update, after_gated) + self._normed(made, after)

    def _normed(self, rows: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        if weight is None:
            return rows
        if self._described.norm == "layer":
            return layer_norm(rows, weight, self._eps)
        if weight.dtype == rows.dtype:
            return F.rms_norm(rows, weight.shape, weight, self._eps)
        return F.rms_norm(rows.float(), weight.shape, weight, self._eps).to(rows.dtype)

    def _values(self, by_head: torch.Tensor) -> torch.Tensor:
        first = (
            self._num_query_heads if self._described.keys_are_values else self._num_rotated_heads
        )
        values = by_head[:, first:]
        if not self._described.has_value_norm:
            return values
        return F.rms_norm(values, (self._head_dim,), None, self._eps)

    def _rotate(self, heads: torch.Tensor, ragged: Ragged) -> torch.Tensor:
        if self._query_norm is not None:
            num_queries = self._num_query_heads
            queries, keys = heads[:, :num_queries], heads[:, num_queries:]
            normed = (
                self._normed_heads(queries, self._query_norm),
                self._normed_heads(keys, self._key_norm),
            )
            heads = torch.cat(normed, dim=1)
        return super()._rotate(heads, ragged)

    def _normed_heads(self, heads: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """Heads `[T, n, D]` normed one by one, or all of a row together."""
        if self._described.qk_norm_over == "head":
            return self._normed(heads, weight)
        return self._normed(heads.flatten(1), weight).view(heads.shape)


class _Mixture:
    """Experts, of which each row takes a few; gate and up of one are one matrix."""

    def __init__(self, experts: Experts, tensors: Mapping[str, torch.Tensor], packed: bool) -> None:
        self._experts = experts
        self._router = joined(tensors, [experts.router], packed)
        self._expert_scale = tensors.get(experts.expert_scale)
        self._gate_up: list[Linear] = []
        self._down: list[Linear] = []
        if experts.are_stacked:
            self._unstack(tensors, packed)
            return
        for index in range(experts.num_experts):
            names = [experts.gate.format(index), experts.up.format(index)]
            self._gate_up.append(joined(tensors, names, packed))
            self._down.append(joined(tensors, [experts.down.format(index)], packed))

    def _unstack(self, tensors: Mapping[str, torch.Tensor], packed: bool) -> None:
        for each in stacked_experts(tensors.__getitem__, self._experts):
            named: dict[str, torch.Tensor] = {}
            for name, linear in (("gate", each.gate), ("up", each.up), ("down", each.down)):
                named[f"{name}.weight"] = linear.weight
                if linear.bias is not None:
                    named[f"{name}.bias"] = linear.bias
            self._gate_up.append(joined(named, ["gate", "up"], packed))
            self._down.append(joined(named, ["down"], packed))

    def forward(
        self, normed: torch.Tensor, routed: torch.Tensor, activation: Activation
    ) -> torch.Tensor:
        """What the experts of each row `[T, H]` give, chosen by rows that the router reads."""
        shares, chosen = route(self._router(routed), self._experts)
        if self._expert_scale is not None:
            shares = shares * self._expert_scale[chosen]
        update = torch.zeros_like(normed)
        for index in torch.unique(chosen).tolist():
            rows, places = torch.where(chosen == index)
            gate, up = self._gate_up[index](normed[rows]).chunk(2, dim=-1)
            if self._experts.swiglu_limit is None:
                inner = activation(gate).mul_(up)
            else:
                inner = clamped_swiglu(gate, up, self._experts)
            made = self._down[index](inner)
            update.index_add_(0, rows, made * shares[rows, places, None])
        return update

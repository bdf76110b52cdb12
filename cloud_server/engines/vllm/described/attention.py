"""The attention half of a layer, by its description."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import QKVParallelLinear, RowParallelLinear
from vllm.model_executor.model_loader.weight_utils import sharded_weight_loader
from vllm.model_executor.utils import set_weight_attrs

from cloud_server.engines.vllm.described.parts import DescribedRotary, WideNorm, make_norm
from submodels.manifest import ModelShape


@dataclass(frozen=True, slots=True)
class LayerPlace:
    """What differs from layer to layer: how many keys a query sees, and how heads are turned."""

    window: int | None
    rotary: DescribedRotary | None


class DescribedAttention(nn.Module):
    """Queries, keys and values of rows `[T, H]`, over vLLM's paged cache, back to `[T, H]`."""

    def __init__(self, shape: ModelShape, place: LayerPlace, vllm_config: Any, prefix: str) -> None:
        super().__init__()
        described, quantised = shape.described, vllm_config.quant_config
        num_workers = get_tensor_model_parallel_world_size()
        self._num_queries = shape.num_attention_heads // num_workers
        self._num_keys = max(1, shape.num_key_value_heads // num_workers)
        self._head_dim = shape.head_dim
        self._is_normed_whole = described.qk_norm_over == "width"
        self.keys_are_values = described.keys_are_values
        """The matrix of keys is then loaded a second time as that of values."""
        self.qkv_proj = QKVParallelLinear(
            shape.hidden_size,
            shape.head_dim,
            shape.num_attention_heads,
            shape.num_key_value_heads,
            bias=shape.qkv_bias,
            quant_config=quantised,
            prefix=f"{prefix}.qkv_proj",
        )
        self.o_proj = RowParallelLinear(
            shape.num_attention_heads * shape.head_dim,
            shape.hidden_size,
            bias=shape.output_bias,
            quant_config=quantised,
            prefix=f"{prefix}.o_proj",
        )
        self.q_norm = self._head_norm(shape, shape.num_attention_heads)
        self.k_norm = self._head_norm(shape, shape.num_key_value_heads)
        self.v_norm = None
        if described.has_value_norm:
            self.v_norm = RMSNorm(shape.head_dim, shape.rms_norm_eps, has_weight=False)
        self.rotary_emb = place.rotary
        self.attn = Attention(
            self._num_queries,
            shape.head_dim,
            shape.attention_scale,
            num_kv_heads=self._num_keys,
            cache_config=vllm_config.cache_config,
            quant_config=quantised,
            logits_soft_cap=described.attention_softcap,
            per_layer_sliding_window=place.window,
            prefix=f"{prefix}.attn",
            **self._sinks(shape),
        )

    def _head_norm(self, shape: ModelShape, num_heads: int) -> Any:
        if not shape.qk_norm:
            return None
        if self._is_normed_whole:
            return WideNorm(shape, num_heads)
        return make_norm(shape, shape.head_dim)

    def _sinks(self, shape: ModelShape) -> dict[str, Any]:
        if not shape.described.has_sinks:
            return {}
        self.sinks = nn.Parameter(torch.empty(self._num_queries), requires_grad=False)
        set_weight_attrs(self.sinks, {"weight_loader": sharded_weight_loader(0)})
        return {"sinks": self.sinks}

    def forward(self, positions: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
        """What attention adds to rows at these positions `[T]`; writes their keys and values."""
        qkv, _ = self.qkv_proj(normed)
        widths = [n * self._head_dim for n in (self._num_queries, self._num_keys, self._num_keys)]
        queries, keys, values = qkv.split(widths, dim=-1)
        queries, keys = self._normed(queries, self.q_norm), self._normed(keys, self.k_norm)
        if self.v_norm is not None:
            values = self.v_norm(values.view(len(values), -1, self._head_dim)).flatten(-2)
        if self.rotary_emb is not None:
            queries, keys = self.rotary_emb(positions, queries, keys)
        update: torch.Tensor = self.o_proj(self.attn(queries, keys, values))[0]
        return update

    def _normed(self, heads: torch.Tensor, norm: Any) -> torch.Tensor:
        """Heads `[T, n * head_dim]` normed one by one, or all of a row together."""
        if norm is None:
            return heads
        if self._is_normed_whole:
            whole: torch.Tensor = norm(heads)
            return whole
        normed: torch.Tensor = norm(heads.view(len(heads), -1, self._head_dim))
        return normed.flatten(-2)

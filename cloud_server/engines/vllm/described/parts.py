"""Norms and rotary embeddings as a description names them."""

from typing import Any

import torch
from torch import nn
from vllm.distributed import (
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
    tensor_model_parallel_all_reduce,
)
from vllm.model_executor.layers.layernorm import GemmaRMSNorm, LayerNorm, RMSNorm
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
from vllm.model_executor.utils import set_weight_attrs

from submodels.manifest import ModelShape, Rope


def make_norm(shape: ModelShape, width: int) -> Any:
    """The model's kind of norm over the last dimension, `[..., width]`."""
    described, eps = shape.described, shape.rms_norm_eps
    if described.norm == "layer":
        return LayerNorm(width, eps, bias=False, dtype=torch.float32)
    return RMSNorm(width, eps) if described.norm_offset == 0 else GemmaRMSNorm(width, eps)


class WideNorm(nn.Module):
    """Root mean square over all heads of queries or keys `[T, n * head_dim]`, of every worker.

    Heads that are copied to several workers count as often everywhere, so that the mean over all
    copies is the mean.
    """

    def __init__(self, shape: ModelShape, num_heads: int) -> None:
        super().__init__()
        num_workers = get_tensor_model_parallel_world_size()
        width = max(1, num_heads // num_workers) * shape.head_dim
        self._num_workers = num_workers
        self._share = get_tensor_model_parallel_rank() // max(1, num_workers // num_heads)
        self._eps = shape.rms_norm_eps
        self._offset = shape.described.norm_offset
        self.weight = nn.Parameter(torch.ones(width), requires_grad=False)
        set_weight_attrs(self.weight, {"weight_loader": self._load})

    def _load(self, parameter: torch.Tensor, weight: torch.Tensor) -> None:
        width = len(parameter)
        parameter.data.copy_(weight.narrow(0, self._share * width, width))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """This worker's part of the rows, normed with the parts of all."""
        wide = rows.float()
        square = wide.pow(2).mean(-1, keepdim=True)
        if self._num_workers > 1:
            square = tensor_model_parallel_all_reduce(square) / self._num_workers
        normed = wide * torch.rsqrt(square + self._eps)
        return (normed * (self.weight.float() + self._offset)).to(rows.dtype)


class DescribedRotary(RotaryEmbedding):  # type: ignore[misc]
    """vLLM's rotary embedding by the manifest's own frequencies, whatever they came from."""

    def __init__(self, shape: ModelShape, rope: Rope, head_dim: int, max_positions: int) -> None:
        self._rope = rope
        super().__init__(
            head_size=head_dim,
            rotary_dim=2 * len(rope.inv_freq),
            max_position_embeddings=max_positions,
            base=1.0,
            is_neox_style=not shape.described.is_interleaved,
            dtype=torch.get_default_dtype(),
        )

    def _compute_inv_freq(self, base: float) -> torch.Tensor:
        return torch.tensor(self._rope.inv_freq, dtype=torch.float32)

    def _compute_cos_sin_cache(self) -> torch.Tensor:
        cache: torch.Tensor = super()._compute_cos_sin_cache()
        return cache * self._rope.attention_scaling

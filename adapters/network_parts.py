"""The parts that adapters are made of: norm, causal attention, gated feed-forward half.

Shapes: `B` sequences of `T` rows, `H` hidden, `S` cached keys.
"""

import torch
from torch import Tensor, nn

from submodels.bundle.layers import (
    ACTIVATIONS,
    Attend,
    rms_norm,
    rope_table,
    rotate,
    visible_keys,
)
from submodels.manifest import ModelShape

# On a CPU, rows in blocks against the keys they can see take 0.57 of the time that torch takes for
# all at once, forward and backward (4 windows of 480 rows, 8 heads of 8).
_BLOCK_ROWS = 128


class RmsNorm(nn.Module):
    """Root mean square norm over the last dimension, with a learned weight `[H]`."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self._eps = eps

    def forward(self, rows: Tensor) -> Tensor:
        """Rows of any leading shape, normed."""
        return rms_norm(rows, self.weight, self._eps)


class SelfAttention(nn.Module):
    """Causal grouped-query attention with rotary positions, no biases."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self._shape = shape
        hidden, head_dim = shape.hidden_size, shape.head_dim
        queries, keys = shape.num_attention_heads * head_dim, shape.num_key_value_heads * head_dim
        self.q_proj = nn.Linear(hidden, queries, bias=False)
        self.k_proj = nn.Linear(hidden, keys, bias=False)
        self.v_proj = nn.Linear(hidden, keys, bias=False)
        self.o_proj = nn.Linear(queries, hidden, bias=False)
        # A new adapter passes its rows through, which is early exit; training moves on from there.
        nn.init.zeros_(self.o_proj.weight)

    def forward(self, normed: Tensor) -> Tensor:
        """What to add to rows `[B, T, H]` of whole sequences, given the same rows normed."""
        update: Tensor = self.o_proj(self.mix(normed))
        return update

    def mix(self, normed: Tensor) -> Tensor:
        """What the heads take from the values, `[B, T, heads x D]`."""
        positions = torch.arange(normed.shape[1], device=normed.device)
        return causal(*self.project(normed, positions)).flatten(2)

    def through(self, normed: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """What to add to rows `[..., H]` at positions `[...]`; `attend` says what they see."""
        update: Tensor = self.o_proj(attend(*self.project(normed, positions)).flatten(-2))
        return update

    def project(self, normed: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `[..., T, heads, D]`, the first two turned."""
        cos, sin = rope_table(self._shape.rope, positions, normed.dtype)
        queries, keys, values = (
            linear(normed).view(*normed.shape[:-1], -1, self._shape.head_dim)
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        return rotate(queries, cos, sin), rotate(keys, cos, sin), values


class GatedMlp(nn.Module):
    """The gated feed-forward half of a decoder layer, no biases."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        hidden, inner = shape.hidden_size, shape.intermediate_size
        self._activation = ACTIVATIONS[shape.hidden_act]
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)
        nn.init.zeros_(self.down_proj.weight)

    def forward(self, normed: Tensor) -> Tensor:
        """What to add to rows of any leading shape, given the same rows normed."""
        update: Tensor = self.down_proj(self.hidden(normed))
        return update

    def hidden(self, normed: Tensor) -> Tensor:
        """The gated values, as wide as the layer's middle."""
        gated: Tensor = self._activation(self.gate_proj(normed)) * self.up_proj(normed)
        return gated


def causal(queries: Tensor, keys: Tensor, values: Tensor, window: int | None = None) -> Tensor:
    """`causal_attention` as an `Attend`: of `[..., T, heads, D]` over `[..., T, KV, D]`."""
    heads = [part.reshape(-1, *part.shape[-3:]).transpose(1, 2) for part in (queries, keys, values)]
    mixed = causal_attention(heads[0], heads[1], heads[2], window)
    return mixed.transpose(1, 2).reshape(queries.shape)


def causal_attention(
    queries: Tensor, keys: Tensor, values: Tensor, window: int | None = None
) -> Tensor:
    """Attention of `[B, heads, T, D]` over `[B, KV, T, D]` of the same positions."""
    attention = nn.functional.scaled_dot_product_attention
    if queries.is_cuda and window is None:
        return attention(queries, keys, values, is_causal=True, enable_gqa=True)
    num_rows = queries.shape[2]
    blocks = []
    for start in range(0, num_rows, _BLOCK_ROWS):
        end = min(start + _BLOCK_ROWS, num_rows)
        seen = visible_keys(torch.arange(start, end, device=queries.device), end, window)
        some = (queries[:, :, start:end], keys[:, :, :end], values[:, :, :end])
        blocks.append(attention(*some, attn_mask=seen, enable_gqa=True))
    return torch.cat(blocks, dim=2)

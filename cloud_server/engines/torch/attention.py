"""Attention of one sequence's new rows over its cache, one layer at a time.

Queries of a KV head's group are folded into its rows: `[KV, T * G, D]`, row `t * G + g`. Position
alignment is always explicit (lower right), never a library's `is_causal`, which is upper left.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

_MAX_SCORES = 1 << 22
"""Scores held at once, over all heads: 16 MiB in float32, whatever a chunk's and a cache's size."""


@dataclass(frozen=True, slots=True)
class Block:
    """Query rows `[first_row, end_row)` of an item and the keys they may see.

    `hidden` `[rows, 1, masked]` is true where a row must not see one of the last `masked` of
    the keys `[first_key, end_key)`; None: every row sees every key.
    """

    first_row: int
    end_row: int
    first_key: int
    end_key: int
    hidden: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """How many query heads share a KV head, and how many KV heads there are."""

    num_kv_heads: int
    group_size: int


def plan_blocks(
    position: int,
    num_rows: int,
    window: int | None,
    heads: HeadLayout,
    device: torch.device,
) -> list[Block]:
    """Cut the rows of positions `[position, position + num_rows)` so that scores stay bounded.

    `window` is the number of keys a row sees, its own included; None for all.
    """
    blocks = []
    first = 0
    num_heads = heads.num_kv_heads * heads.group_size
    while first < num_rows:
        first_key = _first_visible(position + first, window)
        most_rows = _MAX_SCORES // (num_heads * (position + num_rows - first_key))
        end = min(num_rows, first + max(1, most_rows))
        end_key = position + end
        hidden = _hidden(position + first, first_key, end_key, window, device)
        blocks.append(Block(first, end, first_key, end_key, hidden))
        first = end
    return blocks


class Attention(Protocol):
    """One way to compute attention; `transposed_keys` says which cache layout it reads best."""

    transposed_keys: bool

    def attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block: Block
    ) -> torch.Tensor:
        """Outputs `[KV, R * G, D]` of a block's scaled queries `[KV, R * G, D]`.

        `keys` `[KV, D, slots]` and `values` `[KV, slots, D]` are the whole cache.
        """
        ...


class MatmulAttention:
    """Two batched products and a softmax; on a CPU several times faster than the fused kernel."""

    transposed_keys = True

    def attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block: Block
    ) -> torch.Tensor:
        scores = torch.bmm(queries, keys[:, :, block.first_key : block.end_key])
        _hide(scores, block)
        return torch.bmm(scores.softmax(-1), values[:, block.first_key : block.end_key])


class CappedAttention:
    """As `MatmulAttention`, with scores `s` become `cap * tanh(s / cap)` (Gemma 2)."""

    transposed_keys = True

    def __init__(self, softcap: float) -> None:
        self._softcap = softcap

    def attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block: Block
    ) -> torch.Tensor:
        scores = torch.bmm(queries, keys[:, :, block.first_key : block.end_key])
        scores.div_(self._softcap).tanh_().mul_(self._softcap)
        _hide(scores, block)
        return torch.bmm(scores.softmax(-1), values[:, block.first_key : block.end_key])


class SinkAttention:
    """As `MatmulAttention`, with a number of each head in the softmax that no value goes with.

    `sinks` is `[Hq]`, and belongs to one layer.
    """

    transposed_keys = True

    def __init__(self, sinks: torch.Tensor, heads: HeadLayout) -> None:
        self._sinks = sinks.view(heads.num_kv_heads, 1, heads.group_size)

    def attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block: Block
    ) -> torch.Tensor:
        scores = torch.bmm(queries, keys[:, :, block.first_key : block.end_key])
        _hide(scores, block)
        num_kv_heads, num_folded, num_keys = scores.shape
        num_rows = num_folded // self._sinks.shape[2]
        sinks = self._sinks.expand(-1, num_rows, -1).reshape(num_kv_heads, num_folded, 1)
        shares = torch.cat((scores, sinks), dim=-1).softmax(-1)[..., :num_keys]
        return torch.bmm(shares, values[:, block.first_key : block.end_key])


def _hide(scores: torch.Tensor, block: Block) -> None:
    """Minus infinity where a row must not see a key."""
    if block.hidden is not None:
        num_rows, _, num_masked = block.hidden.shape
        by_row = scores.view(scores.shape[0], num_rows, -1, scores.shape[2])
        by_row[..., -num_masked:].masked_fill_(block.hidden, -torch.inf)


class FusedAttention:
    """torch's `scaled_dot_product_attention`: for GPUs."""

    transposed_keys = False

    def attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block: Block
    ) -> torch.Tensor:
        return F.scaled_dot_product_attention(
            queries.unsqueeze(0),
            keys[:, :, block.first_key : block.end_key].transpose(1, 2).unsqueeze(0),
            values[:, block.first_key : block.end_key].unsqueeze(0),
            attn_mask=self._visible(queries.shape[1], block),
            scale=1.0,
        ).squeeze(0)

    def _visible(self, num_folded_rows: int, block: Block) -> torch.Tensor | None:
        """True where a folded row sees a key, `[R * G, keys]`."""
        if block.hidden is None:
            return None
        num_rows, _, num_masked = block.hidden.shape
        num_keys = block.end_key - block.first_key
        group_size = num_folded_rows // num_rows
        visible = block.hidden.new_ones(num_rows, group_size, num_keys)
        visible[..., num_keys - num_masked :] = ~block.hidden
        return visible.view(num_folded_rows, num_keys)


def _first_visible(position: int, window: int | None) -> int:
    return 0 if window is None else max(0, position - window + 1)


def _hidden(
    first_position: int, first_key: int, end_key: int, window: int | None, device: torch.device
) -> torch.Tensor | None:
    """The mask over the last keys of a block whose rows begin at `first_position`."""
    num_rows = end_key - first_position
    if num_rows == 1:
        return None
    cut_left = _first_visible(end_key - 1, window) > first_key
    first_masked = first_key if cut_left else first_position
    rows = torch.arange(first_position, end_key, device=device).unsqueeze(1)
    columns = torch.arange(first_masked, end_key, device=device).unsqueeze(0)
    hidden = columns > rows
    if cut_left and window is not None:
        hidden |= columns <= rows - window
    return hidden.unsqueeze(1)

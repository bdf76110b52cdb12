"""Blocks of queries: every row sees what it should, and scores stay bounded."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_server.engines.torch import attention as torch_attention
from cloud_server.engines.torch.attention import (
    Block,
    FusedAttention,
    HeadLayout,
    MatmulAttention,
    plan_blocks,
)
from tests.support.examples import at_most

CPU = torch.device("cpu")
HEADS = HeadLayout(num_kv_heads=2, group_size=3)

places = {
    "position": st.integers(0, 60),
    "num_rows": st.integers(1, 40),
    "window": st.none() | st.integers(1, 70),
    "max_scores": st.integers(1, 3000),
}


def _plan(position: int, num_rows: int, window: int | None, max_scores: int) -> list[Block]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_attention, "_MAX_SCORES", max_scores)
        return plan_blocks(position, num_rows, window, HEADS, CPU)


def _visible(position: int, num_rows: int, window: int | None) -> torch.Tensor:
    rows = torch.arange(position, position + num_rows).unsqueeze(1)
    keys = torch.arange(position + num_rows).unsqueeze(0)
    visible = keys <= rows
    return visible if window is None else visible & (keys > rows - window)


@settings(max_examples=at_most(150))
@given(**places)
def test_blocks_show_each_row_exactly_its_keys(position, num_rows, window, max_scores):
    seen = torch.zeros(num_rows, position + num_rows, dtype=torch.bool)
    for block in _plan(position, num_rows, window, max_scores):
        part = seen[block.first_row : block.end_row, block.first_key : block.end_key]
        part[:] = True
        if block.hidden is not None:
            part[:, part.shape[1] - block.hidden.shape[2] :] &= ~block.hidden[:, 0]
    assert torch.equal(seen, _visible(position, num_rows, window))


@settings(max_examples=at_most(150))
@given(**places)
def test_blocks_follow_each_other_and_hold_few_scores(position, num_rows, window, max_scores):
    blocks = _plan(position, num_rows, window, max_scores)
    assert [block.first_row for block in blocks] == [0, *(b.end_row for b in blocks[:-1])]
    assert blocks[-1].end_row == num_rows
    for block in blocks:
        num_scores = 6 * (block.end_row - block.first_row) * (block.end_key - block.first_key)
        assert num_scores <= max_scores or block.end_row == block.first_row + 1


@settings(max_examples=at_most(40))
@given(seed=st.integers(0, 100), **places)
def test_both_attentions_equal_the_plain_formula(seed, position, num_rows, window, max_scores):
    generator = torch.Generator().manual_seed(seed)
    num_keys = position + num_rows
    queries = torch.randn(2, num_rows * 3, 8, generator=generator)
    keys = torch.randn(2, 8, num_keys + 5, generator=generator)
    values = torch.randn(2, num_keys + 5, 8, generator=generator)
    scores = (queries @ keys[:, :, :num_keys]).view(2, num_rows, 3, num_keys)
    hidden = ~_visible(position, num_rows, window)[:, None, :]
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1).view(2, -1, num_keys)
    expected = weights @ values[:, :num_keys]
    for attention in (MatmulAttention(), FusedAttention()):
        parts = [
            attention.attend(queries[:, b.first_row * 3 : b.end_row * 3], keys, values, b)
            for b in _plan(position, num_rows, window, max_scores)
        ]
        torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-5, atol=1e-5)

"""One step as the worker processes get it: arrays of numbers, nothing to look up."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud_server.engines.engine import Rows, StepItem
from cloud_server.engines.vllm.paged_cache import Placement
from wire.messages import Dtype, Want
from wire.numbers import NUMPY_DTYPES

Numbers = NDArray[np.integer[Any]]


class StepPlan(NamedTuple):
    """R sequences, T rows in all; the rows themselves go beside it.

    `row_starts` int32 `[R + 1]`: the rows of sequence r are `[row_starts[r], row_starts[r + 1])`.
    `lengths` int32 `[R]`: how many positions it has after the step. `positions` and `places` int64
    `[T]`: where each row stands, in its sequence and in the paged cache. `tables` int32 `[R, W]`:
    the KV blocks of a sequence, 0 behind the last. `tap_depths` int64 `[D]` and `tap_rows` int64
    `[S]`, both ascending: after how many layers rows are wanted besides, and which. `wanted` int64
    `[K]`: what to return, out of the T deep rows, behind them the S rows of the first depth, then
    those of the next one. `copies` int64 `[C, 2]`: blocks to copy first, (source, destination), all
    sources read before anything is written. `most_rows` and `most_tokens`: of one sequence, new and
    in all.
    """

    row_starts: Numbers
    lengths: Numbers
    positions: Numbers
    places: Numbers
    tables: Numbers
    tap_depths: Numbers
    tap_rows: Numbers
    wanted: Numbers
    copies: Numbers
    most_rows: int
    most_tokens: int


def make_plan(batch: Sequence[StepItem], placement: Placement, block_tokens: int) -> StepPlan:
    """The plan of checked items whose KV blocks are there."""
    sizes = [len(item.rows) for item in batch]
    lengths = [item.position + size for item, size in zip(batch, sizes, strict=True)]
    row_starts = np.zeros(len(batch) + 1, np.int32)
    np.cumsum(sizes, out=row_starts[1:])
    width = max(map(len, placement.tables))
    tables = np.array([table + (0,) * (width - len(table)) for table in placement.tables], np.int32)
    numbers = np.arange(row_starts[-1], dtype=np.int64)
    # A sequence's rows are the last ones of it.
    positions = numbers + np.repeat(np.array(lengths) - row_starts[1:], sizes)
    block, offset = np.divmod(positions, block_tokens)
    block += np.repeat(np.arange(0, tables.size, width), sizes)
    return StepPlan(
        row_starts,
        np.array(lengths, np.int32),
        positions,
        tables.ravel()[block] * np.int64(block_tokens) + offset,
        tables,
        *_wanted_rows(batch, row_starts),
        np.array(placement.copies, np.int64).reshape(-1, 2),
        max(sizes),
        max(lengths),
    )


def rows_as_numbers(batch: Sequence[StepItem], dtype: Dtype) -> list[NDArray[Any]]:
    """Each item's rows `[t, H]` in a type that torch has too: bfloat16 as uint16. No copies."""
    if dtype is Dtype.BF16:
        return [item.rows.view(np.uint16) for item in batch]
    return [item.rows for item in batch]


def split_rows(deep: NDArray[Any], batch: Sequence[StepItem], dtype: Dtype) -> list[Rows]:
    """A copy of the wanted rows `[K, H]` of a step, taps among them, one array per item.

    Raises:
        ValueError: the workers gave another number of rows.
    """
    copied = deep.copy()
    rows = copied.view(NUMPY_DTYPES[dtype]) if dtype is Dtype.BF16 else copied
    ends = list(accumulate(item.num_wanted_rows * (1 + len(item.taps)) for item in batch))
    if len(rows) != ends[-1]:
        raise ValueError(f"expected {ends[-1]} rows, got {len(rows)}")
    return [rows[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _wanted_rows(
    batch: Sequence[StepItem], row_starts: Numbers
) -> tuple[Numbers, Numbers, Numbers]:
    """`tap_depths`, `tap_rows` and `wanted` of a plan."""
    none = np.empty(0, np.int64)
    if all(item.want is Want.ALL and not item.taps for item in batch):
        return none, none, np.arange(row_starts[-1], dtype=np.int64)
    parts = [
        np.arange(end - item.num_wanted_rows, end, dtype=np.int64)
        for item, end in zip(batch, row_starts[1:].tolist(), strict=True)
    ]
    tapped = [rows if item.taps else none for item, rows in zip(batch, parts, strict=True)]
    tap_rows = np.concatenate(tapped)
    if not len(tap_rows):
        return none, none, np.concatenate(parts)
    depths = sorted({tap for item in batch if item.num_wanted_rows for tap in item.taps})
    first, firsts = int(row_starts[-1]), np.cumsum([0, *map(len, tapped)])
    for place, item in enumerate(batch):
        if item.taps and item.num_wanted_rows:
            among = np.arange(firsts[place], firsts[place + 1], dtype=np.int64)
            columns = [parts[place]]
            columns += [first + depths.index(tap) * len(tap_rows) + among for tap in item.taps]
            parts[place] = np.stack(columns, axis=1).ravel()
    return np.array(depths, np.int64), tap_rows, np.concatenate(parts)

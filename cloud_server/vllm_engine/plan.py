"""One step as the worker processes get it: arrays of numbers, nothing to look up."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud_server.engine import Rows, StepItem
from cloud_server.step_checks import num_wanted_rows
from cloud_server.vllm_engine.paged_cache import Placement
from wire.messages import Dtype
from wire.numbers import NUMPY_DTYPES

Numbers = NDArray[np.integer[Any]]


class StepPlan(NamedTuple):
    """R sequences, T rows in all.

    `hidden` `[T, H]` float32, float16, or bfloat16 as uint16. `row_starts` int32 `[R + 1]`: the
    rows of sequence r are `[row_starts[r], row_starts[r + 1])`. `positions` int32 `[R]`: where
    its first row stands. `tables` int32 `[R, W]`: its KV blocks, 0 behind the last. `wanted` int64
    `[K]`: the rows to return. `copies` int64 `[C, 2]`: blocks to copy first, (source, destination),
    all sources read before anything is written.
    """

    hidden: NDArray[Any]
    row_starts: Numbers
    positions: Numbers
    tables: Numbers
    wanted: Numbers
    copies: Numbers


def make_plan(batch: Sequence[StepItem], placement: Placement, dtype: Dtype) -> StepPlan:
    """The plan of checked items whose KV blocks are there."""
    sizes = [len(item.rows) for item in batch]
    row_starts = np.zeros(len(batch) + 1, np.int32)
    np.cumsum(sizes, out=row_starts[1:])
    width = max(len(table) for table in placement.tables)
    tables = np.zeros((len(batch), width), np.int32)
    for index, table in enumerate(placement.tables):
        tables[index, : len(table)] = table
    hidden = np.concatenate([item.rows for item in batch])
    return StepPlan(
        hidden.view(np.uint16) if dtype is Dtype.BF16 else hidden,
        row_starts,
        np.array([item.position for item in batch], np.int32),
        tables,
        _wanted_rows(batch, row_starts),
        np.array(placement.copies, np.int64).reshape(-1, 2),
    )


def split_rows(deep: NDArray[Any], batch: Sequence[StepItem], dtype: Dtype) -> list[Rows]:
    """The wanted rows `[K, H]` of a step as one array per item, each owning its memory.

    Raises:
        ValueError: the workers gave another number of rows.
    """
    rows = deep.view(NUMPY_DTYPES[dtype]) if dtype is Dtype.BF16 else deep
    ends = np.cumsum([num_wanted_rows(item) for item in batch])
    if len(rows) != ends[-1]:
        raise ValueError(f"expected {ends[-1]} deep rows, got {len(rows)}")
    return [part.copy() for part in np.split(rows, ends[:-1])]


def _wanted_rows(batch: Sequence[StepItem], row_starts: Numbers) -> Numbers:
    parts = [
        np.arange(end - num_wanted_rows(item), end, dtype=np.int64)
        for item, end in zip(batch, row_starts[1:].tolist(), strict=True)
    ]
    return np.concatenate(parts)

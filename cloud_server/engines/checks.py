"""What every engine refuses before it does anything, so that a refusal changes nothing."""

from collections.abc import Callable, Sequence
from typing import Protocol

from cloud_server.engines.engine import SequenceId, StepItem
from wire.messages import Dtype
from wire.numbers import NUMPY_DTYPES


class Extent(Protocol):
    """How many positions a sequence holds, and for how many it was opened."""

    @property
    def length(self) -> int:
        """Cached positions."""
        ...

    @property
    def max_tokens(self) -> int:
        """The most it may have."""
        ...


class Copied(Protocol):
    """Which positions of a sequence a copy has, `[begin, end)`."""

    @property
    def begin(self) -> int:
        """The first one."""
        ...

    @property
    def end(self) -> int:
        """Behind the last one."""
        ...


def check_items(
    batch: Sequence[StepItem],
    extent_of: Callable[[SequenceId], Extent],
    hidden_size: int,
    dtype: Dtype,
) -> None:
    """Return if the items can run; `extent_of` raises ValueError for an unknown sequence.

    Raises:
        ValueError: an item that names an unknown sequence, a sequence twice, a position
            beyond what it holds or may hold, or rows of another shape or number format.
    """
    if len({item.sequence for item in batch}) != len(batch):
        raise ValueError("a sequence appears twice in one step")
    expected = NUMPY_DTYPES[dtype]
    for item in batch:
        extent = extent_of(item.sequence)
        rows = item.rows
        if rows.ndim != 2 or rows.shape[1] != hidden_size or len(rows) == 0:
            raise ValueError(f"expected rows [T, {hidden_size}], T > 0, got {rows.shape}")
        if rows.dtype != expected:
            raise ValueError(f"expected {expected} rows, got {rows.dtype}")
        if not 0 <= item.position <= extent.length:
            raise ValueError(
                f"rows start at {item.position}, the sequence holds {extent.length} positions"
            )
        end = item.position + len(rows)
        if end > extent.max_tokens:
            raise ValueError(
                f"rows end at {end}, the sequence was opened for {extent.max_tokens} positions"
            )


def check_save(extent: Extent, begin: int, end: int, block_tokens: int) -> None:
    """Return if a sequence's positions `[begin, end)` can be copied to host memory.

    Raises:
        ValueError: it does not hold them, they are none, or they begin within a block.
    """
    if not 0 <= begin < end <= extent.length:
        raise ValueError(f"cannot save [{begin}, {end}): the sequence holds {extent.length}")
    if begin % block_tokens:
        raise ValueError(f"expected a begin in blocks of {block_tokens} tokens, got {begin}")


def check_restore(extent: Extent, copy: Copied, begin: int, end: int, block_tokens: int) -> None:
    """Return if positions `[begin, end)` of a copy can go on where a sequence ends.

    Raises:
        ValueError: they do not go on there or begin within a block, the copy has them not, or the
            sequence may not.
    """
    if begin != extent.length or not copy.begin <= begin < end <= copy.end:
        raise ValueError(
            f"cannot restore [{begin}, {end}) of a copy of [{copy.begin}, {copy.end}): the sequence"
            f" holds {extent.length}"
        )
    if begin % block_tokens:
        raise ValueError(f"expected a begin in blocks of {block_tokens} tokens, got {begin}")
    if end > extent.max_tokens:
        raise ValueError(
            f"the copy ends at {end}, the sequence was opened for {extent.max_tokens} positions"
        )


def check_opening(
    max_tokens: int, max_context_tokens: int, fork_tokens: int, source: Extent | None
) -> None:
    """Return if a sequence of this length and origin makes sense.

    Raises:
        ValueError: a length outside what the engine or the forked sequence has.
    """
    if not 1 <= max_tokens <= max_context_tokens:
        raise ValueError(f"max_tokens must be in [1, {max_context_tokens}], got {max_tokens}")
    available = 0 if source is None else source.length
    if not 0 <= fork_tokens <= min(available, max_tokens):
        raise ValueError(
            f"cannot fork {fork_tokens} positions: the sequence holds {available}, "
            f"the new one may have {max_tokens}"
        )

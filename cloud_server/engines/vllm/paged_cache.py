"""Which KV blocks hold which sequence: shared after a fork, copied before they are written.

Block 0 is never used: attention kernels take it for padding. A sequence's reservation counts
against the capacity at once; blocks are taken as it grows, and there is always one left for it,
since no sequence holds more blocks than it has reserved.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cloud_server.engines.checks import Extent, check_opening
from cloud_server.engines.engine import EngineFullError, SequenceId


class Span(NamedTuple):
    """Rows of one sequence that are about to be written."""

    sequence: SequenceId
    position: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a step's rows go: the blocks of each span's sequence, after `copies` of whole blocks.

    `copies` are pairs (source, destination).
    """

    tables: tuple[tuple[int, ...], ...]
    copies: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class _Sequence:
    max_tokens: int
    reserved_blocks: int
    length: int = 0
    blocks: list[int] = field(default_factory=list)


class PagedCache:
    """Blocks `1..num_blocks` of `block_tokens` positions each, and the sequences in them."""

    def __init__(self, num_blocks: int, block_tokens: int, max_context_tokens: int) -> None:
        if num_blocks < 1:
            raise ValueError(f"expected at least 1 block, got {num_blocks}")
        self.block_tokens = block_tokens
        self.num_blocks = num_blocks
        self.max_context_tokens = min(max_context_tokens, num_blocks * block_tokens)
        self._free = list(range(num_blocks, 0, -1))
        self._num_holders = [0] * (num_blocks + 1)
        self._num_reserved = 0
        self._sequences: dict[SequenceId, _Sequence] = {}
        self._num_opened = 0

    def extent(self, sequence: SequenceId) -> Extent:
        """How much a sequence holds and may hold.

        Raises:
            ValueError: no such sequence.
        """
        return self._find(sequence)

    def open(
        self, max_tokens: int, fork_of: SequenceId | None = None, fork_tokens: int = 0
    ) -> SequenceId:
        """See `MiddleEngine.open`. A fork shares its source's blocks.

        Raises:
            ValueError: a length outside what the engine or the forked sequence has.
        """
        source = None if fork_of is None else self._find(fork_of)
        extent = None if fork_of is None else self.extent(fork_of)
        check_opening(max_tokens, self.max_context_tokens, fork_tokens, extent)
        reserved = self._blocks_for(max_tokens)
        num_free = self.num_blocks - self._num_reserved
        if reserved > num_free:
            raise EngineFullError(
                f"{max_tokens} positions asked for, {num_free * self.block_tokens} of "
                f"{self.num_blocks * self.block_tokens} free"
            )
        opened = _Sequence(max_tokens, reserved, fork_tokens)
        if source is not None:
            opened.blocks = source.blocks[: self._blocks_for(fork_tokens)]
            for block in opened.blocks:
                self._num_holders[block] += 1
        self._num_reserved += reserved
        self._num_opened += 1
        name = SequenceId(self._num_opened)
        self._sequences[name] = opened
        return name

    def release(self, sequence: SequenceId) -> None:
        """See `MiddleEngine.release`.

        Raises:
            ValueError: no such sequence.
        """
        found = self._find(sequence)
        self._drop_from(found, 0)
        self._num_reserved -= found.reserved_blocks
        del self._sequences[sequence]

    def blocks_of(self, sequence: SequenceId, begin: int, end: int) -> tuple[int, ...]:
        """The blocks that hold a sequence's positions `[begin, end)`, which begin one."""
        return tuple(
            self._find(sequence).blocks[begin // self.block_tokens : self._blocks_for(end)]
        )

    def grow(self, sequence: SequenceId, end: int) -> tuple[int, ...]:
        """Let a sequence hold positions up to `end`, which are about to be written whole blocks at
        a time behind those that it holds, which fill theirs; the blocks for them."""
        found = self._find(sequence)
        num_before = len(found.blocks)
        assert found.length == num_before * self.block_tokens, "what it holds fills its blocks"
        while len(found.blocks) < self._blocks_for(end):
            found.blocks.append(self._take())
        found.length = end
        return tuple(found.blocks[num_before:])

    def place(self, spans: Sequence[Span]) -> Placement:
        """Truncate each sequence to its span's start and make room for the rows.

        The spans have been checked: known sequences, each once, starts and ends within bounds.
        """
        copies: list[tuple[int, int]] = []
        tables = []
        for name, position, num_rows in spans:
            sequence = self._sequences[name]
            end = position + num_rows
            num_kept, num_needed = self._blocks_for(position), self._blocks_for(end)
            if len(sequence.blocks) > num_kept:
                self._drop_from(sequence, num_kept)
            if position % self.block_tokens:
                self._unshare_last(sequence, position, copies)
            while len(sequence.blocks) < num_needed:
                sequence.blocks.append(self._take())
            sequence.length = end
            tables.append(tuple(sequence.blocks))
        return Placement(tuple(tables), tuple(copies))

    def _unshare_last(
        self, sequence: _Sequence, position: int, copies: list[tuple[int, int]]
    ) -> None:
        """The block that `position` lies in is about to be written: it must be this sequence's."""
        index = position // self.block_tokens
        shared = sequence.blocks[index]
        if self._num_holders[shared] == 1:
            return
        # Not free yet: the other holder's rows stay where they are.
        self._num_holders[shared] -= 1
        sequence.blocks[index] = self._take()
        copies.append((shared, sequence.blocks[index]))

    def _take(self) -> int:
        assert self._free, "reservations cover every block that is held"
        block = self._free.pop()
        self._num_holders[block] = 1
        return block

    def _drop_from(self, sequence: _Sequence, num_kept: int) -> None:
        for block in sequence.blocks[num_kept:]:
            self._num_holders[block] -= 1
            if self._num_holders[block] == 0:
                self._free.append(block)
        del sequence.blocks[num_kept:]

    def _find(self, sequence: SequenceId) -> _Sequence:
        if sequence not in self._sequences:
            raise ValueError(f"no sequence {sequence}")
        return self._sequences[sequence]

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_tokens)

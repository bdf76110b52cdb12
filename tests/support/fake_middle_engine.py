"""A middle engine without weights, for tests of what is around it."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cloud_server.config import CloudConfig
from cloud_server.engines.engine import EngineFullError, Rows, SequenceId, StepItem
from cloud_server.engines.loading import LoadedEngine
from submodels.bundle.bundle import Bundle
from wire.messages import Dtype
from wire.numbers import NUMPY_DTYPES

POISON = -1234.0
"""A first number of a step's rows that makes the step raise."""


@dataclass(frozen=True, eq=False)
class RowsCopy:
    """Positions `[begin, end)` of a sequence."""

    begin: int
    end: int
    rows: Rows

    def wait(self) -> None:
        """See `PendingCopy`."""


class FakeMiddleEngine:
    """The deep row of a position is the sum of the rows up to there: it depends on all of them."""

    dtype = Dtype.FP32
    block_tokens = 1
    takes_taps = False

    def __init__(self, hidden_size: int = 64, capacity: int = 4096, context: int = 512) -> None:
        self.hidden_size = hidden_size
        self.capacity_tokens = capacity
        self.max_context_tokens = context
        self.fails_always = False
        self.has_host_memory = True
        self.may_step = threading.Event()
        self.may_step.set()
        self.num_longest = 0
        """How often a sequence came to the end of the context."""
        self.rows: dict[SequenceId, Rows] = {}
        self.copies: list[RowsCopy] = []
        """What lies in host memory."""
        self._reserved: dict[SequenceId, int] = {}
        self._num_opened = 0

    @property
    def num_sequences(self) -> int:
        """Sequences that hold a cache."""
        return len(self.rows)

    def open(
        self, max_tokens: int, fork_of: SequenceId | None = None, fork_tokens: int = 0
    ) -> SequenceId:
        """See `MiddleEngine.open`."""
        if sum(self._reserved.values()) + max_tokens > self.capacity_tokens:
            raise EngineFullError(f"no room for {max_tokens} positions")
        self._num_opened += 1
        sequence = SequenceId(self._num_opened)
        empty = np.empty((0, self.hidden_size), np.float32)
        self.rows[sequence] = empty if fork_of is None else self.rows[fork_of][:fork_tokens]
        self._reserved[sequence] = max_tokens
        return sequence

    def step(self, batch: Sequence[StepItem]) -> list[Rows]:
        """See `MiddleEngine.step`. Waits for `may_step`."""
        self.may_step.wait()
        if self.fails_always or any(item.rows[0, 0] == POISON for item in batch):
            raise RuntimeError("planted")
        return [self._run(item) for item in batch]

    def release(self, sequence: SequenceId) -> None:
        """See `MiddleEngine.release`."""
        del self.rows[sequence]
        del self._reserved[sequence]

    def save(self, sequence: SequenceId, begin: int, end: int) -> "RowsCopy":
        """See `MiddleEngine.save`."""
        if not self.has_host_memory:
            raise EngineFullError("no host memory")
        assert end <= len(self.rows[sequence])
        copy = RowsCopy(begin, end, self.rows[sequence][begin:end])
        self.copies.append(copy)
        return copy

    def restore(self, sequence: SequenceId, copy: "RowsCopy", begin: int, end: int) -> "RowsCopy":
        """See `MiddleEngine.restore`."""
        assert len(self.rows[sequence]) == begin >= copy.begin
        part = copy.rows[begin - copy.begin : end - copy.begin]
        self.rows[sequence] = np.concatenate([self.rows[sequence], part])
        return copy

    def drop(self, copy: "RowsCopy") -> "RowsCopy":
        """See `MiddleEngine.drop`."""
        self.copies.remove(copy)
        return copy

    def load(self, bundle: Bundle, config: CloudConfig) -> LoadedEngine:
        """An `EngineLoader` that gives this engine."""
        return LoadedEngine(self, "a fake", 4)

    def _run(self, item: StepItem) -> Rows:
        kept = self.rows[item.sequence][: item.position]
        self.rows[item.sequence] = np.concatenate([kept, item.rows])
        self.num_longest += len(self.rows[item.sequence]) == self.max_context_tokens
        deep = deep_rows(self.rows[item.sequence])[item.position :]
        num_wanted = item.num_wanted_rows
        return deep[len(deep) - num_wanted :].astype(NUMPY_DTYPES[self.dtype])


def deep_rows(rows: Rows) -> Rows:
    """What a whole sequence of rows gives."""
    return np.cumsum(rows, axis=0, dtype=np.float64).astype(np.float32)

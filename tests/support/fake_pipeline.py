"""Engines with several steps in flight, without weights and without vLLM."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_server.engines.engine import (
    EngineFullError,
    EngineLostError,
    PendingRows,
    Rows,
    SequenceId,
    StepItem,
)
from cloud_server.engines.vllm.plan import StepPlan
from tests.support.fake_middle_engine import FakeMiddleEngine
from wire.messages import Dtype
from wire.numbers import NUMPY_DTYPES

BEGIN_POISON = -4321.0
"""A first number of a step's rows that makes its `begin` raise."""


@dataclass(slots=True)
class PlannedStep:
    """A step that was begun; `wait` gives its rows once the test has let it end."""

    batch: list[StepItem]
    rows: list[Rows]
    error: Exception | None = None
    may_end: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> list[Rows]:
        """See `PendingRows`."""
        self.may_end.wait()
        if self.error is not None:
            raise self.error
        return self.rows

    @property
    def sequences(self) -> set[SequenceId]:
        """Whose rows are in it."""
        return {item.sequence for item in self.batch}


class FakePipeline(FakeMiddleEngine):
    """A `PipelinedEngine` whose steps end when the test says so.

    `under_way` has the steps that were begun and not let go, oldest first; `num_begun` counts
    those that failed at once too. `broken_rules` says when rows did not follow those of the same
    sequence that are under way, or more steps were begun than it takes.
    """

    def __init__(self, max_steps_in_flight: int = 3) -> None:
        super().__init__()
        self.max_steps_in_flight = max_steps_in_flight
        self.under_way: deque[PlannedStep] = deque()
        self.num_begun = 0
        self.num_opens = 0
        self.refused_opens: set[int] = set()
        """Which calls of `open` find the engine full, counted from 1."""
        self.broken_rules: list[str] = []
        self.ends_at_once = False

    def open(
        self, max_tokens: int, fork_of: SequenceId | None = None, fork_tokens: int = 0
    ) -> SequenceId:
        """See `MiddleEngine.open`."""
        self.num_opens += 1
        if self.num_opens in self.refused_opens:
            raise EngineFullError("planted")
        return super().open(max_tokens, fork_of, fork_tokens)

    def begin(self, batch: Sequence[StepItem]) -> PendingRows:
        """See `PipelinedEngine.begin`."""
        if any(item.rows[0, 0] == BEGIN_POISON for item in batch):
            self.num_begun += 1
            raise RuntimeError("planted at the beginning")
        step = PlannedStep(list(batch), [])
        if len(self.under_way) >= self.max_steps_in_flight:
            self.broken_rules.append("more steps than the engine takes")
        ends = {
            item.sequence: item.position + len(item.rows)
            for other in self.under_way
            for item in other.batch
        }
        if any(item.position != ends.get(item.sequence, item.position) for item in batch):
            self.broken_rules.append("rows do not follow those under way")
        try:
            step.rows = self.step(batch)
        except RuntimeError as error:
            step.error = error
        self.num_begun += 1
        if self.ends_at_once:
            step.may_end.set()
        else:
            self.under_way.append(step)
        return step

    def end_oldest(self, error: Exception | None = None) -> PlannedStep:
        """Let the oldest step end, or fail."""
        step = self.under_way.popleft()
        step.error = error or step.error
        step.may_end.set()
        return step

    def end_all(self) -> None:
        """Let every step end, those that are begun later too."""
        self.ends_at_once = True
        while self.under_way:
            self.end_oldest()


class NumpyWorkers:
    """Worker processes as `VllmMiddleEngine` sees them: they read nothing but the plan.

    The cache holds the rows themselves, and a deep row is the sum over all rows of its sequence
    from the first on: a wrong position, table or copy changes it. A row after d layers is the deep
    one plus d. Numbers are small integers, so that sums are exact in every number format.
    """

    def __init__(
        self, num_blocks: int, block_tokens: int, hidden_size: int, num_stages: int = 1
    ) -> None:
        self.num_stages = num_stages
        self.are_lost = False
        self.send_error: Exception | None = None
        self.result_error: Exception | None = None
        self.plans: list[StepPlan] = []
        self.kept: dict[int, NDArray[Any]] = {}
        """Copies in host memory, blocks of rows."""
        # Block 0 is for padding: to read it or to write it is to be noticed.
        self._cache = np.full((num_blocks + 1, block_tokens, hidden_size), np.nan)
        self._block_tokens = block_tokens

    def send(self, plan: StepPlan, rows: Sequence[NDArray[Any]]) -> "NumpyAnswer":
        """See `Workers.send`: runs at once."""
        if self.send_error is not None:
            raise self.send_error
        self.plans.append(plan)
        return NumpyAnswer(self, self._run(plan, np.concatenate(rows)))

    def save(self, copy: int, blocks: NDArray[Any]) -> "NumpyAnswer":
        """See `Workers.save`."""
        self.kept[copy] = self._cache[blocks]
        return NumpyAnswer(self, blocks)

    def restore(self, copy: int, first: int, blocks: NDArray[Any]) -> "NumpyAnswer":
        """See `Workers.restore`."""
        self._cache[blocks] = self.kept[copy][first : first + len(blocks)]
        return NumpyAnswer(self, blocks)

    def drop(self, copy: int) -> "NumpyAnswer":
        """See `Workers.drop`."""
        return NumpyAnswer(self, self.kept.pop(copy))

    def _run(self, plan: StepPlan, shallow: NDArray[Any]) -> NDArray[Any]:
        sources, targets = plan.copies[:, 0], plan.copies[:, 1]
        self._cache[targets] = self._cache[sources]
        numbers = shallow
        if shallow.dtype == np.uint16:
            numbers = (shallow.astype(np.uint32) << 16).view(np.float32)
        deep = []
        for index, length in enumerate(plan.lengths):
            own = slice(plan.row_starts[index], plan.row_starts[index + 1])
            assert plan.positions[own].tolist() == list(range(length - len(numbers[own]), length))
            # A row is written where the plan says and read where the table has its position.
            self._flat()[plan.places[own]] = numbers[own]
            for position in plan.positions[own]:
                cached = [self._cache[self._place(plan, index, p)] for p in range(position + 1)]
                deep.append(np.sum(cached, axis=0))
        assert not np.isin(plan.places, np.arange(self._block_tokens)).any(), "that is for padding"
        made = np.array(deep, np.float32)
        tapped = [made[plan.tap_rows] + np.float32(depth) for depth in plan.tap_depths]
        wanted = np.concatenate([made, *tapped])[plan.wanted]
        if shallow.dtype == np.uint16:
            return (wanted.view(np.uint32) >> 16).astype(np.uint16)
        return wanted.astype(shallow.dtype)

    def _flat(self) -> NDArray[Any]:
        return self._cache.reshape(-1, self._cache.shape[-1])

    def _place(self, plan: StepPlan, index: int, position: int) -> tuple[int, int]:
        block = int(plan.tables[index, position // self._block_tokens])
        assert block != 0, "block 0 is for padding"
        return block, position % self._block_tokens


@dataclass(frozen=True, slots=True)
class NumpyAnswer:
    """See `Answer`."""

    workers: NumpyWorkers
    deep: NDArray[Any]

    def result(self) -> NDArray[Any]:
        """The rows, or what the workers are to raise."""
        if self.workers.result_error is not None:
            raise self.workers.result_error
        return self.deep

    def release(self) -> None:
        """See `Answer`."""


def lost() -> EngineLostError:
    """What an engine without workers says."""
    return EngineLostError("the engine's workers are gone: planted")


def small_numbers(num_rows: int, hidden_size: int, seed: int, dtype: Dtype) -> Rows:
    """Rows of integers whose sums every number format holds exactly."""
    drawn = np.random.default_rng(seed).integers(-1, 2, (num_rows, hidden_size))
    return drawn.astype(NUMPY_DTYPES[dtype])

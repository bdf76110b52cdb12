"""A middle engine over worker processes that keep paged KV and know nothing of sessions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cloud_server.engines.checks import check_items, check_restore, check_save
from cloud_server.engines.engine import (
    EngineLostError,
    HostCopy,
    PendingCopy,
    PendingRows,
    Rows,
    SequenceId,
    StepItem,
)
from cloud_server.engines.vllm.paged_cache import PagedCache, Span
from cloud_server.engines.vllm.plan import StepPlan, make_plan, rows_as_numbers, split_rows
from wire.messages import Dtype


class Answer(Protocol):
    """A step or a copy under way in the workers."""

    def result(self) -> Any:
        """A step's wanted rows `[K, H]`, valid until `release`, or anything of a copy; waits for
        it. May raise anything."""
        ...

    def release(self) -> None:
        """Its rows have been copied, or will not be asked for."""
        ...


class Workers(Protocol):
    """The processes that hold the layers. Steps run in the order in which they are sent."""

    num_stages: int

    def send(self, plan: StepPlan, rows: Sequence[NDArray[Any]]) -> Answer:
        """Start a step over these rows, `[t, H]` for each sequence, which are copied.

        May raise anything.
        """
        ...

    def save(self, copy: int, blocks: NDArray[Any]) -> Answer:
        """Have each worker keep its part of these KV blocks in its host memory, as `copy`."""
        ...

    def restore(self, copy: int, first: int, blocks: NDArray[Any]) -> Answer:
        """Have each worker write a copy's blocks into these, from its block `first` on."""
        ...

    def drop(self, copy: int) -> Answer:
        """Have each worker forget a copy."""
        ...

    @property
    def are_lost(self) -> bool:
        """Whether one of them is gone, and with it every cache."""
        ...


@dataclass(frozen=True, slots=True)
class WorkersCopy:
    """A `HostCopy` of which every worker has its part under `number`, or one being put back."""

    number: int
    begin: int
    end: int
    answer: Answer

    def wait(self) -> None:
        """See `PendingCopy.wait`.

        Raises:
            EngineLostError: a worker could not make it, while others may have.
        """
        try:
            self.answer.result()
        except Exception as error:
            raise _lost(error) from error
        finally:
            self.answer.release()


@dataclass(frozen=True, slots=True)
class EngineShape:
    """What the layers take, and what one step and one sequence may have."""

    hidden_size: int
    dtype: Dtype
    max_context_tokens: int
    max_step_tokens: int


class VllmMiddleEngine:
    """A `PipelinedEngine`: as many steps in flight as the workers have stages."""

    takes_taps = True

    def __init__(self, workers: Workers, shape: EngineShape, cache: PagedCache) -> None:
        self.hidden_size = shape.hidden_size
        self.dtype = shape.dtype
        self.max_context_tokens = cache.max_context_tokens
        self.capacity_tokens = cache.num_blocks * cache.block_tokens
        self.block_tokens = cache.block_tokens
        self.max_steps_in_flight = workers.num_stages
        self._max_step_tokens = shape.max_step_tokens
        self.workers = workers
        self._cache = cache
        self._num_copies = 0

    def open(
        self, max_tokens: int, fork_of: SequenceId | None = None, fork_tokens: int = 0
    ) -> SequenceId:
        """See `MiddleEngine.open`."""
        return self._cache.open(max_tokens, fork_of, fork_tokens)

    def release(self, sequence: SequenceId) -> None:
        """See `MiddleEngine.release`."""
        self._cache.release(sequence)

    def save(self, sequence: SequenceId, begin: int, end: int) -> WorkersCopy:
        """See `MiddleEngine.save`. Workers copy in the order of steps and copies.

        Raises:
            ValueError: no such sequence, or not such positions.
        """
        check_save(self._cache.extent(sequence), begin, end, self.block_tokens)
        blocks = np.array(self._cache.blocks_of(sequence, begin, end), np.int64)
        self._num_copies += 1
        number = self._num_copies
        return WorkersCopy(number, begin, end, _asked(lambda: self.workers.save(number, blocks)))

    def restore(self, sequence: SequenceId, copy: HostCopy, begin: int, end: int) -> PendingCopy:
        """See `MiddleEngine.restore`.

        Raises:
            ValueError: no such sequence, or positions that do not follow on what it holds.
        """
        check_restore(self._cache.extent(sequence), copy, begin, end, self.block_tokens)
        assert isinstance(copy, WorkersCopy), "it came from here"
        blocks = np.array(self._cache.grow(sequence, end), np.int64)
        first = (begin - copy.begin) // self.block_tokens
        answer = _asked(lambda: self.workers.restore(copy.number, first, blocks))
        return replace(copy, answer=answer)

    def drop(self, copy: HostCopy) -> PendingCopy:
        """See `MiddleEngine.drop`."""
        assert isinstance(copy, WorkersCopy), "it came from here"
        return replace(copy, answer=_asked(lambda: self.workers.drop(copy.number)))

    def step(self, batch: Sequence[StepItem]) -> list[Rows]:
        """See `MiddleEngine.step`."""
        return self.begin(batch).wait() if batch else []

    def begin(self, batch: Sequence[StepItem]) -> PendingRows:
        """See `PipelinedEngine.begin`. Nothing changes when an item is refused.

        Raises:
            ValueError: no items, more rows than a step may have, or an item that `check_items`
                refuses.
        """
        num_rows = sum(len(item.rows) for item in batch)
        if not 0 < num_rows <= self._max_step_tokens:
            most = self._max_step_tokens
            raise ValueError(f"expected a step of 1 to {most} rows, got {num_rows}")
        check_items(batch, self._cache.extent, self.hidden_size, self.dtype)
        spans = [Span(item.sequence, item.position, len(item.rows)) for item in batch]
        plan = make_plan(batch, self._cache.place(spans), self.block_tokens)
        answer = _asked(lambda: self.workers.send(plan, rows_as_numbers(batch, self.dtype)))
        return _Pending(answer, self.workers, tuple(batch), self.dtype)


@dataclass(frozen=True, slots=True)
class _Pending:
    answer: Answer
    workers: Workers
    batch: tuple[StepItem, ...]
    dtype: Dtype

    def wait(self) -> list[Rows]:
        """See `PendingRows.wait`.

        Raises:
            EngineLostError: a worker died, or several share the work and one of them failed: the
                others may wait for it for ever.
            Exception: what the only worker raised; it lives.
        """
        try:
            return split_rows(self.answer.result(), self.batch, self.dtype)
        except Exception as error:
            if self.workers.are_lost:
                raise _lost(error) from error
            raise
        finally:
            self.answer.release()


def _asked(ask: Callable[[], Answer]) -> Answer:
    """What the workers were asked for.

    Raises:
        EngineLostError: they cannot be asked.
    """
    try:
        return ask()
    except Exception as error:
        raise _lost(error) from error


def _lost(error: Exception) -> EngineLostError:
    return EngineLostError(f"the engine's workers are gone: {type(error).__name__}")

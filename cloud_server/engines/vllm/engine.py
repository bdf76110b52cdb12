"""A middle engine over worker processes that keep paged KV and know nothing of sessions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from cloud_server.engines.checks import check_items
from cloud_server.engines.engine import EngineLostError, PendingRows, Rows, SequenceId, StepItem
from cloud_server.engines.vllm.paged_cache import PagedCache, Span
from cloud_server.engines.vllm.plan import StepPlan, make_plan, rows_as_numbers, split_rows
from wire.messages import Dtype


class Answer(Protocol):
    """A step under way in the workers."""

    def result(self) -> NDArray[Any]:
        """The wanted rows `[K, H]`, valid until `release`; waits for them. May raise anything."""
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

    @property
    def are_lost(self) -> bool:
        """Whether one of them is gone, and with it every cache."""
        ...


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

    def open(
        self, max_tokens: int, fork_of: SequenceId | None = None, fork_tokens: int = 0
    ) -> SequenceId:
        """See `MiddleEngine.open`."""
        return self._cache.open(max_tokens, fork_of, fork_tokens)

    def release(self, sequence: SequenceId) -> None:
        """See `MiddleEngine.release`."""
        self._cache.release(sequence)

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
        try:
            answer = self.workers.send(plan, rows_as_numbers(batch, self.dtype))
        except Exception as error:
            raise _lost(error) from error
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


def _lost(error: Exception) -> EngineLostError:
    return EngineLostError(f"the engine's workers are gone: {type(error).__name__}")

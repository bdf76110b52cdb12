"""Worker processes behind vLLM's executor: plans to them, rows back, and whether they live."""

import contextlib
import itertools
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_server.engines.vllm.engine import Answer
from cloud_server.engines.vllm.exchange.notices import FAILED
from cloud_server.engines.vllm.exchange.shared_rows import SharedRows
from cloud_server.engines.vllm.plan import StepPlan
from cloud_server.engines.vllm.worker import send_unanswered

_STEP_TIMEOUT_S = 300.0
"""After so long without an answer the workers are given up; vLLM's own patience with a step."""

_MOST_FAILED_STEPS = 3
"""In a row: a lone worker that raises each time, as after an error of its GPU, is started anew."""


def answering_rank(num_stages: int, tensor_parallel_size: int) -> int:
    """The first worker of the last stage."""
    return (num_stages - 1) * tensor_parallel_size


class ProcessWorkers:
    """Worker processes behind vLLM's executor."""

    def __init__(
        self,
        executor: Any,
        num_stages: int,
        tensor_parallel_size: int,
        shared: SharedRows | None = None,
    ) -> None:
        self.num_stages = num_stages
        self._executor = executor
        self._answering_rank = answering_rank(num_stages, tensor_parallel_size)
        self._is_alone = num_stages * tensor_parallel_size == 1
        self._died = threading.Event()
        self._has_failed = False
        self._num_failed_in_a_row = 0
        self._shared = shared
        self._step_numbers = itertools.cycle(range(1 << 30))
        self._free_slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(0 if shared is None else shared.exchange.shape.num_slots):
            self._free_slots.put(slot)
        executor.register_failure_callback(self._died.set)

    @property
    def are_lost(self) -> bool:
        """See `Workers`: a step that failed in one of several leaves the others waiting for it."""
        return self._died.is_set() or self._executor.is_failed or self._has_failed

    def send(self, plan: StepPlan, rows: Sequence[NDArray[Any]]) -> Answer:
        """See `Workers.send`. Rows go through shared memory where a slot is free and large enough.

        Raises:
            ConnectionError: the workers are gone.
        """
        if self.are_lost:
            raise ConnectionError("a worker has ended")
        if self._shared is None or not self._fits(plan, self._shared):
            return _CallAnswer(self._call(plan, np.concatenate(rows)), self)
        slot, step = self._free_slots.get_nowait(), next(self._step_numbers)
        # The workers prepare the step while its rows are copied.
        send_unanswered(self._executor, "hat_step_in_slot", (slot, step, *plan))
        self._shared.put(slot, step, rows)
        return _SlotAnswer(slot, step, self._shared, self)

    def save(self, copy: int, blocks: NDArray[Any]) -> Answer:
        """See `Workers.save`.

        Raises:
            ConnectionError: the workers are gone.
        """
        return self._call_all("hat_save", copy, blocks)

    def restore(self, copy: int, first: int, blocks: NDArray[Any]) -> Answer:
        """See `Workers.restore`.

        Raises:
            ConnectionError: the workers are gone.
        """
        return self._call_all("hat_restore", copy, first, blocks)

    def drop(self, copy: int) -> Answer:
        """See `Workers.drop`.

        Raises:
            ConnectionError: the workers are gone.
        """
        return self._call_all("hat_drop", copy)

    def _call_all(self, method: str, *arguments: Any) -> Answer:
        """Have every worker run a method; the answer comes when all of them have."""
        if self.are_lost:
            raise ConnectionError("a worker has ended")
        future = self._executor.collective_rpc(
            method, timeout=_STEP_TIMEOUT_S, args=arguments, non_block=True
        )
        return _CallAnswer(future, self)

    def _fits(self, plan: StepPlan, shared: SharedRows) -> bool:
        """Whether a slot is free and has room for what comes back: taps may be more than the rows
        of any step."""
        fits = len(plan.wanted) <= shared.exchange.shape.max_rows
        return fits and not self._free_slots.empty()

    def give_back(self, slot: int) -> None:
        """The rows in a slot are not needed any more."""
        self._free_slots.put(slot)

    def model_s(self) -> float:
        """Seconds of the last step inside the last stage's model call, its rows' way to the host
        included."""
        seconds: float = self._executor.collective_rpc(
            "hat_model_s", unique_reply_rank=self._answering_rank
        )
        return seconds

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Around the wait for a step. When it raises, nothing more is to be expected of workers
        that shared it, nor of one that has ended, is silent or fails every time."""
        try:
            yield
        except Exception as error:
            self._num_failed_in_a_row += 1
            is_hopeless = self._num_failed_in_a_row >= _MOST_FAILED_STEPS
            if not self._is_alone or is_hopeless or isinstance(error, TimeoutError | EOFError):
                self._has_failed = True
            raise
        self._num_failed_in_a_row = 0

    def _call(self, plan: StepPlan, rows: NDArray[Any]) -> Any:
        return self._executor.collective_rpc(
            "hat_step",
            timeout=_STEP_TIMEOUT_S,
            args=(rows, *plan),
            non_block=True,
            unique_reply_rank=self._answering_rank,
        )


@dataclass(frozen=True, slots=True)
class _CallAnswer:
    """Rows, or word of a copy, that come as what a call returns."""

    future: Any
    workers: ProcessWorkers

    def result(self) -> Any:
        """See `Answer.result`."""
        with self.workers.watched():
            return self.future.result()

    def release(self) -> None:
        """See `Answer.release`."""


@dataclass(slots=True)
class _SlotAnswer:
    """Rows that lie in a slot once a word has come."""

    slot: int
    step: int
    shared: SharedRows
    workers: ProcessWorkers
    is_over: bool = False

    def result(self) -> NDArray[Any]:
        """See `Answer.result`."""
        with self.workers.watched():
            num_rows = self._num_rows()
        return self.shared.exchange.deep(self.slot, num_rows)

    def _num_rows(self) -> int:
        num_rows = self.shared.wait(self.step, lambda: self.workers.are_lost, _STEP_TIMEOUT_S)
        self.is_over = True
        if num_rows == FAILED:
            raise RuntimeError("a step failed in its worker, whose log says why")
        return num_rows

    def release(self) -> None:
        """See `Answer.release`. Without an answer the workers may still use the slot, and they
        are given up."""
        if self.is_over:
            self.workers.give_back(self.slot)
            self.is_over = False

"""Worker processes behind vLLM's executor: plans to them, rows back, and whether they live."""

import queue
import threading
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from cloud_server.vllm_engine.engine import Answer
from cloud_server.vllm_engine.plan import StepPlan
from cloud_server.vllm_engine.row_exchange import RowExchange

_STEP_TIMEOUT_S = 300.0
"""After so long without an answer the workers are given up; vLLM's own patience with a step."""

_MOST_FAILED_STEPS = 3
"""In a row: a lone worker that raises each time, as after an error of its GPU, is started anew."""


class ProcessWorkers:
    """Worker processes behind vLLM's executor."""

    def __init__(
        self,
        executor: Any,
        num_stages: int,
        tensor_parallel_size: int,
        exchange: RowExchange | None = None,
    ) -> None:
        self.num_stages = num_stages
        self._executor = executor
        num_workers = num_stages * tensor_parallel_size
        self._reply_rank = num_workers - tensor_parallel_size
        self._is_alone = num_workers == 1
        self._died = threading.Event()
        self._has_failed = False
        self._num_failed_in_a_row = 0
        self._exchange = exchange
        self._free_slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(0 if exchange is None else exchange.shape.num_slots):
            self._free_slots.put(slot)
        executor.register_failure_callback(self._died.set)

    @property
    def are_lost(self) -> bool:
        """See `Workers`: a step that failed in one of several leaves the others waiting for it."""
        return self._died.is_set() or self._executor.is_failed or self._has_failed

    def send(self, plan: StepPlan) -> Answer:
        """See `Workers.send`. Rows go through shared memory where a slot is free."""
        slot = None
        if self._exchange is not None and not self._free_slots.empty():
            slot = self._free_slots.get_nowait()
            hidden = plan.hidden
            assert not isinstance(hidden, int), "plans are made with their rows"
            self._exchange.shallow(slot, len(hidden))[...] = hidden
            plan = plan._replace(hidden=slot)
        future = self._executor.collective_rpc(
            "hat_step",
            timeout=_STEP_TIMEOUT_S,
            args=(plan,),
            non_block=True,
            unique_reply_rank=self._reply_rank,
        )
        return _WatchedAnswer(future, self, slot)

    def rows_of(self, answer: NDArray[Any] | int, slot: int | None) -> NDArray[Any]:
        """The rows that a step answered with, wherever they are."""
        if isinstance(answer, int):
            assert self._exchange is not None, "only a plan in a slot is answered with a number"
            assert slot is not None, "only a plan in a slot is answered with a number"
            return self._exchange.deep(slot, answer)
        return answer

    def give_back(self, slot: int) -> None:
        """The rows in a slot are not needed any more."""
        self._free_slots.put(slot)

    def model_s(self) -> float:
        """Seconds of the last step inside the last stage's model call, its rows' way to the host
        included."""
        seconds: float = self._executor.collective_rpc(
            "hat_model_s", unique_reply_rank=self._reply_rank
        )
        return seconds

    def note_failure(self, error: Exception) -> None:
        """A step raised; nothing more is to be expected of workers that shared it, nor of one that
        fails every time."""
        self._num_failed_in_a_row += 1
        is_hopeless = self._num_failed_in_a_row >= _MOST_FAILED_STEPS
        if not self._is_alone or is_hopeless or isinstance(error, TimeoutError):
            self._has_failed = True

    def note_success(self) -> None:
        """A step ran."""
        self._num_failed_in_a_row = 0


@dataclass(slots=True)
class _WatchedAnswer:
    future: Any
    workers: ProcessWorkers
    slot: int | None

    def result(self) -> NDArray[Any]:
        """See `Answer.result`."""
        try:
            rows = self.workers.rows_of(self.future.result(), self.slot)
        except Exception as error:
            self.workers.note_failure(error)
            raise
        self.workers.note_success()
        return rows

    def release(self) -> None:
        """See `Answer.release`. Without an answer the workers may still use the slot, and they
        are given up."""
        if self.slot is not None and self.future.done():
            self.workers.give_back(self.slot)
        self.slot = None

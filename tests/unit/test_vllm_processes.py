"""Steps to workers and back: slots used again, failures counted, ends noticed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_server.engines.vllm.exchange.notices import FAILED
from cloud_server.engines.vllm.exchange.rows import ExchangeShape
from cloud_server.engines.vllm.exchange.shared_rows import (
    RowPaths,
    SharedRows,
    WorkerRows,
    share_rows,
)
from cloud_server.engines.vllm.plan import StepPlan
from cloud_server.engines.vllm.processes import ProcessWorkers, answering_rank

SHAPE = ExchangeShape(num_slots=2, max_rows=6, row_items=4, item="float32")
NOTHING = np.zeros(0, np.int32)
PLAN = StepPlan(
    *(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING), 0, 0
)


class DoublingExecutor:
    """Two workers in this process, a stage each: deep rows are twice the shallow ones.

    Steps in slots run when the test says so, as those of another process do.
    """

    is_failed = False

    def __init__(self) -> None:
        self.rpc_broadcast_mq = self
        self.workers: list[WorkerRows] = []
        self.sent: list[tuple[int, int]] = []
        self.num_calls = 0
        self.plan = PLAN
        self.fails = False

    def share(self) -> SharedRows:
        self.paths: list[Path] = []
        return share_rows(SHAPE, 1, answering_rank(2, 1), self._attach)

    def _attach(self, paths: RowPaths) -> None:
        self.paths = [paths.memory, paths.deep_notices, *paths.shallow_notices]
        self.workers = [WorkerRows.opened(paths, rank) for rank in range(2)]

    def register_failure_callback(self, callback: object) -> None:
        self.callback = callback

    def collective_rpc(self, method: str, args: Sequence[Any], **_: object) -> "Answered":
        assert method == "hat_step"
        self.num_calls += 1
        return Answered(RuntimeError("planted") if self.fails else 2 * args[0])

    def enqueue(self, call: tuple[str, tuple[Any, ...], dict[str, Any], int]) -> None:
        method, (slot, step, *plan), _, replies = call
        assert method == "hat_step_in_slot"
        assert StepPlan(*plan) == self.plan
        assert replies == -1
        self.sent.append((slot, step))

    def run_next(self) -> None:
        slot, step = self.sent.pop(0)
        first, last = self.workers
        assert last.deep_notices is not None
        if self.fails:
            # It may fail before it has looked at its rows.
            last.deep_notices.tell(step, FAILED)
            return
        rows = first.take(slot, step)
        last.exchange.deep(slot, len(rows))[...] = 2 * rows
        last.deep_notices.tell(step, len(rows))


class Answered:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def result(self) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def executor() -> Iterator[DoublingExecutor]:
    made = DoublingExecutor()
    yield made
    assert not any(path.exists() for path in getattr(made, "paths", []))


def rows(number: int) -> list[np.ndarray]:
    return [np.full((2, 4), number, np.float32), np.full((1, 4), -number, np.float32)]


def test_several_steps_lie_in_slots_of_their_own(executor):
    workers = ProcessWorkers(executor, 2, 1, executor.share())
    answers = [workers.send(PLAN, rows(number)) for number in (1, 2)]
    assert [slot for slot, _ in executor.sent] == [0, 1]
    for number, answer in zip((1, 2), answers, strict=True):
        executor.run_next()
        np.testing.assert_array_equal(answer.result(), 2 * np.concatenate(rows(number)))
        answer.release()
        answer.release()
    for number in (3, 4):
        workers.send(PLAN, rows(number))
    assert [slot for slot, _ in executor.sent] == [0, 1]
    assert executor.num_calls == 0


def test_a_step_without_a_slot_is_called_rather_than_put_over_the_others(executor):
    workers = ProcessWorkers(executor, 2, 1, executor.share())
    for number in (1, 2):
        workers.send(PLAN, rows(number))
    called = workers.send(PLAN, rows(3))
    np.testing.assert_array_equal(called.result(), 2 * np.concatenate(rows(3)))
    called.release()
    assert (len(executor.sent), executor.num_calls) == (2, 1)


def test_a_step_that_wants_more_rows_than_a_slot_has_is_called(executor):
    """As with taps of a whole chunk."""
    workers = ProcessWorkers(executor, 2, 1, executor.share())
    for num_wanted, num_calls in ((SHAPE.max_rows, 0), (SHAPE.max_rows + 1, 1)):
        executor.plan = PLAN._replace(wanted=np.zeros(num_wanted, np.int64))
        workers.send(executor.plan, rows(1))
        assert executor.num_calls == num_calls


def test_without_shared_memory_every_step_is_called(executor):
    workers = ProcessWorkers(executor, 1, 1)
    np.testing.assert_array_equal(workers.send(PLAN, rows(1)).result(), 2 * np.concatenate(rows(1)))
    assert executor.num_calls == 1


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_lone_worker_that_fails_is_lost_after_three_times_in_a_row(executor, is_shared):
    workers = ProcessWorkers(executor, 1, 1, executor.share() if is_shared else None)
    for fails, is_lost in (
        (True, False),
        (True, False),
        (False, False),
        (True, False),
        (True, False),
        (True, True),
    ):
        executor.fails = fails
        answer = workers.send(PLAN, rows(1))
        if is_shared:
            executor.run_next()
        if fails:
            with pytest.raises(RuntimeError, match=r"a step failed in its worker|planted"):
                answer.result()
        else:
            np.testing.assert_array_equal(answer.result(), 2 * np.concatenate(rows(1)))
        answer.release()
        assert workers.are_lost == is_lost
    with pytest.raises(ConnectionError, match="a worker has ended"):
        workers.send(PLAN, rows(1))


def test_one_of_several_workers_that_fails_is_the_end_of_all(executor):
    workers = ProcessWorkers(executor, 2, 1, executor.share())
    answer = workers.send(PLAN, rows(1))
    executor.fails = True
    executor.run_next()
    with pytest.raises(RuntimeError, match="a step failed in its worker"):
        answer.result()
    assert workers.are_lost


def test_the_end_of_the_answering_worker_is_the_end_of_all_at_once(executor):
    workers = ProcessWorkers(executor, 1, 1, executor.share())
    answer = workers.send(PLAN, rows(1))
    executor.workers.clear()
    with pytest.raises(EOFError, match="has ended"):
        answer.result()
    assert workers.are_lost


def test_the_end_of_another_worker_is_noticed_while_a_step_waits(executor):
    workers = ProcessWorkers(executor, 2, 1, executor.share())
    answer = workers.send(PLAN, rows(1))
    executor.is_failed = True
    with pytest.raises(EOFError, match="a worker has ended"):
        answer.result()


def test_a_worker_that_ended_before_its_rows_came_is_an_error(executor):
    workers = ProcessWorkers(executor, 1, 1, executor.share())
    executor.workers.clear()
    with pytest.raises(BrokenPipeError):
        workers.send(PLAN, rows(1))

"""Rows through shared memory: both views are one memory, and nothing is left of it."""

import numpy as np
import pytest

from cloud_server.vllm_engine.plan import StepPlan
from cloud_server.vllm_engine.processes import ProcessWorkers
from cloud_server.vllm_engine.row_exchange import (
    ExchangeShape,
    NamedExchange,
    RowExchange,
    open_exchange,
)

SHAPE = ExchangeShape(num_slots=2, max_rows=6, row_items=4, item="float32")


@pytest.fixture
def named():
    made = NamedExchange(SHAPE)
    yield made
    made.forget_name()


def test_both_sides_see_the_same_rows(named):
    worker = open_exchange(str(named.path), SHAPE)
    named.forget_name()
    assert not named.path.exists()
    rows = np.arange(24, dtype=np.float32).reshape(6, 4)
    for slot in (0, 1):
        named.exchange.shallow(slot, 6)[...] = rows + slot
        worker.deep(slot, 3)[...] = rows[:3] - slot
    for slot in (0, 1):
        np.testing.assert_array_equal(worker.shallow(slot, 6), rows + slot)
        np.testing.assert_array_equal(named.exchange.deep(slot, 3), rows[:3] - slot)


def test_the_memory_is_for_its_owner_alone(named):
    assert named.path.stat().st_mode & 0o777 == 0o600


def test_more_memory_than_there_is_leaves_no_name():
    before = set(named_files())
    with pytest.raises(OSError, match=r"."):
        NamedExchange(SHAPE._replace(max_rows=1 << 40))
    assert set(named_files()) == before


def named_files():
    from cloud_server.vllm_engine.row_exchange import _FOLDER

    return _FOLDER.glob("hat-rows-*")


class InProcessFuture:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def result(self) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def done(self) -> bool:
        return True


class DoublingExecutor:
    """A worker in this process: deep rows are twice the shallow ones."""

    is_failed = False

    def __init__(self, exchange: RowExchange | None) -> None:
        self.exchange = exchange
        self.slots: list[object] = []
        self.fails = False

    def register_failure_callback(self, callback: object) -> None:
        self.callback = callback

    def collective_rpc(self, method: str, args: tuple[StepPlan], **_: object) -> InProcessFuture:
        (plan,) = args
        self.slots.append(plan.hidden if isinstance(plan.hidden, int) else None)
        if self.fails:
            return InProcessFuture(RuntimeError("planted"))
        if not isinstance(plan.hidden, int):
            return InProcessFuture(2 * plan.hidden)
        num_rows = int(plan.row_starts[-1])
        assert self.exchange is not None
        self.exchange.deep(plan.hidden, num_rows)[...] = 2 * self.exchange.shallow(
            plan.hidden, num_rows
        )
        return InProcessFuture(num_rows)


def plan_of(rows: np.ndarray) -> StepPlan:
    nothing = np.zeros(0, np.int32)
    return StepPlan(rows, np.array([0, len(rows)]), nothing, nothing, nothing, nothing)


def test_a_slot_is_used_again_when_its_rows_were_copied(named):
    executor = DoublingExecutor(named.exchange)
    workers = ProcessWorkers(executor, 2, 1, named.exchange)
    rows = [np.full((3, 4), number, np.float32) for number in range(4)]
    first, second, third = (workers.send(plan_of(each)) for each in rows[:3])
    assert executor.slots == [0, 1, None], "a third goes without, rather than over the others"
    for number, answer in enumerate((first, second, third)):
        np.testing.assert_array_equal(answer.result(), 2 * rows[number])
        answer.release()
        answer.release()
    workers.send(plan_of(rows[3]))
    assert executor.slots[-1] == 0


def test_a_lone_workers_failed_steps_give_their_slots_back(named):
    executor = DoublingExecutor(named.exchange)
    workers = ProcessWorkers(executor, 1, 1, named.exchange)
    executor.fails = True
    for number in (1, 2, 3):
        answer = workers.send(plan_of(np.zeros((1, 4), np.float32)))
        with pytest.raises(RuntimeError, match="planted"):
            answer.result()
        answer.release()
        assert workers.are_lost == (number == 3), "three in a row are a loss"
    assert None not in executor.slots


def test_one_success_makes_earlier_failures_forgotten():
    executor = DoublingExecutor(None)
    workers = ProcessWorkers(executor, 1, 1)
    for fails in (True, True, False, True, True):
        executor.fails = fails
        answer = workers.send(plan_of(np.zeros((1, 4), np.float32)))
        try:
            answer.result()
        except RuntimeError:
            assert fails
    assert not workers.are_lost

"""The cloud's core: credit, admission, overload, drain and a failing engine."""

from dataclasses import replace
from typing import Any

import pytest

from cloud_server.core.actions import (
    OpenSequence,
    ReleaseSequence,
    StepOutcome,
)
from cloud_server.core.core import CoreConfig
from tests.support.cloud_core import (
    CONFIG,
    Cloud,
    deep_rows,
    figures,
    one_fault,
    opening,
    rows_of,
    shallow_rows,
    states,
)
from wire.errors import FaultCode
from wire.messages import Close, Credit, Opened, SessionId

A = shallow_rows(*range(100, 112))
B = shallow_rows(*range(200, 212))


def test_rows_come_back_as_credit_when_they_are_computed() -> None:  # W22
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A))
    cloud.run_all()
    assert Credit(CONFIG.credit_window_tokens + 8) in cloud.received(connection)


def test_rows_come_back_as_credit_when_a_higher_epoch_drops_them() -> None:  # W18, W22
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A))
    answers = cloud.send(connection, states(1, 0, B[:1], epoch=1))
    assert answers == [Credit(CONFIG.credit_window_tokens + 12)]


def test_rows_come_back_as_credit_when_their_session_ends() -> None:  # W22
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A))
    answers = cloud.send(connection, Close(SessionId(1)))
    assert answers == [Credit(CONFIG.credit_window_tokens + 12)]


def test_rows_in_a_step_come_back_when_it_ends_though_their_session_has() -> None:  # W22
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A[:8]))
    step = cloud.core.next_step(cloud.now)
    assert step is not None
    assert cloud.send(connection, Close(SessionId(1))) == []
    cloud.received(connection)
    cloud.finish_step(step)
    assert cloud.received(connection) == [Credit(CONFIG.credit_window_tokens + 8)]


def test_a_few_rows_are_not_worth_a_credit() -> None:  # W22
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A[:5]))
    cloud.received(connection)
    cloud.run_all()
    assert [type(message).__name__ for message in cloud.received(connection)] == ["Reply"]


def test_a_session_that_can_never_fit_is_refused_for_good() -> None:
    cloud = Cloud(replace(CONFIG, max_context_tokens=1000))
    connection = cloud.connect()
    fault = one_fault(cloud.send(connection, opening(1, key=1, max_tokens=65)))
    assert (fault.code, fault.retry_after_s) == (FaultCode.CAPACITY, 0.0)
    fault = one_fault(cloud.send(connection, opening(2, key=1, max_tokens=1001)))
    assert (fault.code, fault.retry_after_s) == (FaultCode.CONTEXT_EXCEEDED, 0.0)


@pytest.mark.parametrize(
    ("max_tokens", "num_sessions", "code"),
    [(32, 2, FaultCode.CAPACITY), (1, 4, FaultCode.TOO_MANY_SESSIONS)],
)
def test_a_full_cloud_says_when_to_come_back_and_has_room_after_a_close(  # W32
    max_tokens: int, num_sessions: int, code: FaultCode
) -> None:
    cloud = Cloud()
    connection = cloud.connect()
    for number in range(1, num_sessions + 1):
        cloud.send(connection, opening(number, key=number, max_tokens=max_tokens))
    fault = one_fault(cloud.send(connection, opening(10, key=10, max_tokens=max_tokens)))
    assert fault.code is code
    assert fault.retry_after_s > 0
    cloud.send(connection, Close(SessionId(1)))
    answers = cloud.send(connection, opening(11, key=10, max_tokens=max_tokens))
    assert answers == [Opened(SessionId(11), 0)]
    cloud.run_all()


def test_a_lost_session_gives_way_to_a_new_one_and_the_longest_lost_goes_first() -> None:  # W30
    cloud = Cloud()
    for key in (1, 2):
        lost = cloud.connect()
        cloud.send(lost, opening(1, key=key, max_tokens=32))
        cloud.disconnect(lost)
        cloud.pass_time(1)
    connection = cloud.connect()
    assert cloud.send(connection, opening(1, key=3, max_tokens=32)) == [Opened(SessionId(1), 0)]
    cloud.send(connection, states(1, 0, A[:1]))
    cloud.run_all()
    assert cloud.send(connection, opening(2, key=2, max_tokens=32)) == [Opened(SessionId(2), 0)]
    fault = one_fault(cloud.send(connection, opening(3, key=1, max_tokens=32)))
    assert fault.code is FaultCode.CAPACITY


def test_as_many_lost_sessions_give_way_as_the_new_one_needs_and_no_more() -> None:  # W30
    cloud = Cloud()
    lost = cloud.connect()
    for number in (1, 2, 3):
        cloud.send(lost, opening(number, key=number, max_tokens=16))
    cloud.disconnect(lost)
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=4, max_tokens=32))
    assert cloud.received(connection)[-1] == Opened(SessionId(1), 0)
    assert figures(cloud) == (3, 64)
    fault = one_fault(cloud.send(connection, opening(2, key=5, max_tokens=33)))
    assert fault.code is FaultCode.CONTEXT_EXCEEDED
    assert figures(cloud) == (3, 64)
    cloud.send(connection, opening(3, key=5, max_tokens=32))
    assert figures(cloud) == (2, 64)
    fault = one_fault(cloud.send(connection, opening(4, key=6, max_tokens=1)))
    assert fault.code is FaultCode.CAPACITY


def test_rows_that_wait_end_no_session_however_long_steps_take() -> None:  # W32
    cloud = Cloud()
    connection = cloud.connect()
    for number in (1, 2):
        cloud.send(connection, opening(number, key=number))
        cloud.send(connection, states(number, 0, A[:2]))
    step = cloud.core.next_step(cloud.now)
    assert step is not None
    for _ in range(10):
        cloud.pass_time(CONFIG.queue_deadline_s + 1)
    cloud.finish_step(step)
    cloud.run_all()
    assert len(cloud.replies(connection)) == 2
    assert cloud.faults(connection) == []


def test_a_new_session_is_refused_when_its_rows_would_wait_too_long() -> None:  # W32
    cloud = Cloud(replace(CONFIG, queue_deadline_s=1.0, identity_share=1.0))
    first, second = cloud.connect(), cloud.connect()
    for number in (1, 2):
        cloud.send(first, opening(number, key=number, max_tokens=8))
        cloud.send(first, states(number, 0, A[:8]))
    assert cloud.send(second, opening(1, key=3)) == [Opened(SessionId(1), 0)], "nothing is known"
    step = cloud.core.next_step(cloud.now)
    assert step is not None
    cloud.finish_step(step, seconds=1.5)
    fault = one_fault(cloud.send(first, opening(3, key=4, max_tokens=4)))
    assert fault.code is FaultCode.DEADLINE_EXCEEDED
    assert fault.retry_after_s >= 0.5
    cloud.received(first)
    cloud.run_all()
    assert len(cloud.replies(first)) == 2, "those that were there go on"
    assert cloud.send(first, opening(4, key=4, max_tokens=4))[-1] == Opened(SessionId(4), 0)


def test_opening_and_closing_faster_than_the_engine_turns_leaves_it_nothing_to_do() -> None:
    cloud = Cloud()
    connection = cloud.connect()
    codes = []
    for number in range(1, 60):
        cloud.send(connection, opening(number, key=number))
        cloud.send(connection, Close(SessionId(number)))
        codes += cloud.faults(connection)
    assert codes == []
    assert not cloud.core.has_work
    assert cloud.send(connection, opening(60, key=60)) == [Opened(SessionId(60), 0)]


def test_a_draining_cloud_refuses_new_sessions_and_finishes_the_others() -> None:  # W33
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.core.drain()
    fault = one_fault(cloud.send(connection, opening(2, key=2)))
    assert fault.code is FaultCode.DRAINING
    assert fault.retry_after_s > 0
    cloud.send(connection, states(1, 0, A[:2]))
    assert not cloud.core.is_drained
    cloud.run_all()
    assert len(cloud.replies(connection)) == 1
    again = cloud.connect()
    assert cloud.send(again, opening(1, key=1)) == [Opened(SessionId(1), 2)]
    cloud.send(again, Close(SessionId(1)))
    assert cloud.core.is_drained


def test_a_drain_sends_devices_away_that_have_nothing_to_do() -> None:  # W33
    cloud = Cloud()
    quiet, busy, silent = cloud.connect(), cloud.connect(), cloud.connect(None)
    for connection, key in ((quiet, 1), (busy, 2)):
        cloud.send(connection, opening(1, key=key))
    cloud.now += 5.0
    cloud.send(busy, states(1, 0, A[:2]))
    step = cloud.core.next_step(cloud.now)
    cloud.pass_time(0.0)
    assert cloud.faults(quiet) == [], "it takes a drain"
    cloud.core.drain()
    cloud.pass_time(3.0)
    assert cloud.faults(quiet) == cloud.faults(silent) == [FaultCode.DRAINING]
    assert not cloud.core.is_drained, "a step runs, however long it takes"
    assert step is not None
    cloud.finish_step(step)
    cloud.pass_time(CONFIG.quiet_s - 0.5)
    assert cloud.faults(busy) == [], "its device has had no time to go on"
    cloud.send(busy, states(1, 2, A[2:4]))
    cloud.run_all()
    cloud.pass_time(CONFIG.quiet_s - 0.5)
    assert cloud.faults(busy) == []
    cloud.pass_time(0.5)
    assert cloud.faults(busy) == [FaultCode.DRAINING]
    assert cloud.core.is_drained


def test_a_shut_down_ends_everything() -> None:  # W33
    cloud = Cloud()
    greeted, silent, lost = cloud.connect(), cloud.connect(None), cloud.connect()
    cloud.send(greeted, opening(1, key=1))
    cloud.send(lost, opening(1, key=2))
    cloud.disconnect(lost)
    cloud.shut_down()
    assert cloud.faults(greeted) == cloud.faults(silent) == [FaultCode.DRAINING]
    assert figures(cloud) == (0, 0)
    cloud.run_all()
    assert cloud.engine.cached == {}
    assert cloud.core.is_drained


def test_a_sequence_is_opened_before_its_rows_and_released_after_them() -> None:
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A[:2]))
    first = cloud.core.next_step(cloud.now)
    cloud.send(connection, Close(SessionId(1)))
    second = cloud.core.next_step(cloud.now)
    assert first is not None
    assert second is not None
    (item,) = first.items
    assert first.commands == (OpenSequence(item.handle, 16),)
    assert second.commands == (ReleaseSequence(item.handle),)
    assert second.items == ()


def test_rows_that_the_engine_refuses_end_their_session_alone() -> None:  # W9
    cloud = Cloud()
    connection = cloud.connect()
    for number in (1, 2):
        cloud.send(connection, opening(number, key=number))
        cloud.send(connection, states(number, 0, A[:2]))
    step = cloud.core.next_step(cloud.now)
    assert step is not None
    cloud.engine.refused = {step.items[0].handle}
    cloud.finish_step(step)
    messages = cloud.received(connection)
    fault = one_fault(messages)
    assert (fault.code, fault.session, fault.retry_after_s) == (FaultCode.BAD_FRAME, 1, 0.0)
    assert figures(cloud) == (1, 16)


def test_a_failed_step_ends_its_sessions_and_no_others() -> None:
    cloud = Cloud()
    connection = cloud.connect()
    for number in (1, 2):
        cloud.send(connection, opening(number, key=number))
    cloud.send(connection, states(1, 0, A[:2]))
    cloud.run_all()
    cloud.send(connection, states(2, 0, A[:2]))
    step = cloud.core.next_step(cloud.now)
    assert step is not None
    cloud.received(connection)
    cloud.fail_step(step)
    fault = one_fault(cloud.received(connection))
    assert (fault.code, fault.session) == (FaultCode.INTERNAL, 2)
    cloud.send(connection, states(1, 2, A[2:4]))
    cloud.run_all()
    (reply,) = cloud.replies(connection)
    assert rows_of(reply.payload) == deep_rows(A[:4], 2)
    assert len(cloud.engine.cached) == 1


def test_releases_of_a_failed_step_are_asked_for_again() -> None:
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A[:2]))
    cloud.run_all()
    assert len(cloud.engine.cached) == 1
    cloud.send(connection, Close(SessionId(1)))
    step = cloud.core.next_step(cloud.now)
    assert step is not None
    cloud.fail_step(step)
    cloud.run_all()
    assert cloud.engine.cached == {}


def test_steps_end_in_order_with_one_result_of_the_right_length_per_item() -> None:
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, opening(2, key=2))
    cloud.send(connection, states(1, 0, A[:2]))
    first = cloud.core.next_step(cloud.now)
    cloud.send(connection, states(2, 0, A[:2]))
    second = cloud.core.next_step(cloud.now)
    assert first is not None
    assert second is not None
    for step, results in ((first, ()), (first, (b"1234",)), (second, (b"12345678",))):
        with pytest.raises(ValueError, match="expected"):
            cloud.core.step_done(step, StepOutcome(results, 0.0), cloud.now)
    cloud.finish_step(first)
    cloud.finish_step(second)
    assert len(cloud.replies(connection)) == 2


def test_a_step_shrinks_to_the_target_time_and_a_verification_stays_whole() -> None:
    config = replace(CONFIG, step_budget_tokens=32, target_step_s=0.001)
    cloud = Cloud(config)
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1, max_tokens=32))
    cloud.send(connection, states(1, 0, A))
    cloud.send(connection, states(1, 12, A))
    cloud.send(connection, opening(2, key=2, max_tokens=4))
    sizes = []
    while (step := cloud.core.next_step(cloud.now)) is not None:
        cloud.finish_step(step, seconds=0.001 * step.num_tokens)
        sizes.append(step.num_tokens)
    # By a factor of 4 at the most, and not below what takes twice the least step.
    assert sizes == [12, 4, 8]
    cloud.send(connection, states(2, 0, A[: CONFIG.verify_tokens]))
    step = cloud.run_step()
    assert step is not None
    assert step.num_tokens == CONFIG.verify_tokens


def test_a_reply_tells_how_long_its_rows_waited() -> None:  # W24
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A[:2]))
    cloud.now += 1.5
    cloud.run_all()
    (reply,) = cloud.replies(connection)
    assert reply.queue_s == pytest.approx(1.5)


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": b""},
        {"credit_window_tokens": 23},
        {"step_budget_tokens": 5},
        {"max_sessions": 0},
    ],
)
def test_settings_that_do_not_fit_together_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        replace(CONFIG, **change)
    assert isinstance(CONFIG, CoreConfig)

"""The cloud's core, situation by situation: who gets which fault, and what stays as it was."""

from dataclasses import replace
from typing import Any

import pytest

from cloud_server.actions import (
    CloseConnection,
    OpenSequence,
    ReleaseSequence,
    Send,
    StepOutcome,
)
from cloud_server.core import CoreConfig
from tests.support.cloud_core import (
    CONFIG,
    HELLO,
    Cloud,
    Row,
    deep_row,
    opening,
    rows_of,
    shallow_rows,
    states,
)
from wire.connection import Phase
from wire.errors import FaultCode
from wire.messages import Close, Credit, Fault, Message, Opened, SessionId, Want, Welcome

A = shallow_rows(*range(100, 112))
B = shallow_rows(*range(200, 212))


def deep_rows(prefix: list[Row], num_rows: int) -> list[Row]:
    """What comes back for the last rows of a prefix."""
    begin = len(prefix) - num_rows
    return [deep_row(prefix[: i + 1]) for i in range(begin, len(prefix))]


def one_fault(messages: list[Message]) -> Fault:
    faults = [message for message in messages if isinstance(message, Fault)]
    assert len(faults) == 1
    return faults[0]


def figures(cloud: Cloud) -> tuple[int, int]:
    """Sessions and reserved tokens."""
    shown = cloud.core.figures()
    return shown.num_sessions, shown.reserved_tokens


# The handshake


def test_a_device_is_welcomed_and_its_session_opened() -> None:
    cloud = Cloud()
    connection = cloud.connect()
    assert isinstance(cloud.received(connection)[0], Welcome)
    assert cloud.send(connection, opening(1, key=1)) == [Opened(SessionId(1), 0)]
    assert figures(cloud) == (1, 16)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"max_version": 2, "min_version": 2}, FaultCode.UNSUPPORTED_VERSION),
        ({"credential": b"guess"}, FaultCode.BAD_CREDENTIAL),
        ({"fingerprint": b"g" * 32}, FaultCode.FINGERPRINT_MISMATCH),
        ({"first_layer": 3}, FaultCode.SHAPE_MISMATCH),
    ],
)
def test_a_device_that_does_not_fit_is_told_why_and_closed(  # W10 to W13
    change: dict[str, Any], code: FaultCode
) -> None:
    cloud = Cloud(replace(CONFIG, credential=b"secret"))
    hello = replace(HELLO, **({"credential": b"secret"} | change))
    connection = cloud.connect(hello)
    fault = one_fault(cloud.received(connection))
    assert (fault.code, fault.session, fault.retry_after_s) == (code, 0, 0.0)
    assert cloud.devices[connection].phase is Phase.CLOSED
    assert cloud.core.figures().num_connections == 0


@pytest.mark.parametrize("frame", [b"", b"\xff", b"\x05" * 3, b"\x01" + bytes(4000)], ids=len)
def test_a_malformed_frame_ends_its_connection_and_no_other(frame: bytes) -> None:  # W4, W6
    cloud = Cloud()
    other = cloud.connect()
    cloud.send(other, opening(1, key=1))
    for hello in (None, HELLO):
        connection = cloud.connect(hello)
        assert one_fault(cloud.send_frame(connection, frame)).code is FaultCode.BAD_FRAME
        assert cloud.send_frame(connection, frame) == []
    assert cloud.core.figures().num_connections == 1
    cloud.send(other, states(1, 0, A[:2]))
    cloud.run_all()
    assert len(cloud.replies(other)) == 1


def test_a_text_frame_ends_its_connection() -> None:  # W1
    cloud = Cloud()
    connection = cloud.connect()
    actions = cloud.core.receive_frame(connection, "hello", cloud.now)
    fault = one_fault([action.message for action in actions if isinstance(action, Send)])
    assert fault.code is FaultCode.BAD_FRAME
    assert actions[-1] == CloseConnection(connection)


def test_a_socket_that_stays_silent_is_closed() -> None:  # W14
    cloud = Cloud()
    silent, greeted = cloud.connect(None), cloud.connect()
    cloud.pass_time(CONFIG.handshake_timeout_s + 1)
    assert cloud.faults(silent) == [FaultCode.DEADLINE_EXCEEDED]
    assert cloud.faults(greeted) == []


def test_connections_are_counted() -> None:
    cloud = Cloud()
    connections = [cloud.connect() for _ in range(CONFIG.max_connections)]
    late = cloud.connect(None)
    fault = one_fault(cloud.received(late))
    assert fault.code is FaultCode.TOO_MANY_SESSIONS
    assert fault.retry_after_s > 0
    cloud.disconnect(connections[0])
    assert cloud.faults(cloud.connect()) == []


# Positions, epochs, context


def test_a_frame_larger_than_the_budget_runs_in_pieces_and_is_answered_once() -> None:  # W24
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A, Want.ALL))
    assert cloud.run_all() == 2
    (reply,) = cloud.replies(connection)
    assert rows_of(reply.payload) == deep_rows(A, len(A))
    assert (reply.position, reply.num_rows, reply.cached_tokens) == (0, 12, 12)
    assert reply.compute_s == pytest.approx(0.02)
    assert reply.batch_tokens == 4


@pytest.mark.parametrize(("want", "num_rows"), [(Want.LAST, 1), (Want.NONE, 0)])
def test_only_the_last_piece_returns_the_last_row(want: Want, num_rows: int) -> None:
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A, want))
    first = cloud.run_step()
    assert first is not None
    assert first.items[0].want is Want.NONE
    cloud.run_all()
    (reply,) = cloud.replies(connection)
    assert rows_of(reply.payload) == deep_rows(A, 12)[12 - num_rows :]


def test_a_start_below_the_cached_length_truncates() -> None:  # W16
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A[:6]))
    cloud.send(connection, states(1, 3, B[:2]))
    cloud.run_all()
    _, second = cloud.replies(connection)
    assert second.cached_tokens == 5
    assert rows_of(second.payload) == deep_rows(A[:3] + B[:2], 2)


def test_a_repeated_frame_is_harmless_and_answered_again() -> None:  # W17
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    for _ in range(3):
        cloud.send(connection, states(1, 0, A[:4]))
    cloud.run_all()
    replies = cloud.replies(connection)
    assert [bytes(r.payload) for r in replies] == [b"".join(deep_rows(A[:4], 4))] * 3


def test_a_gap_ends_the_session_and_frees_its_cache() -> None:  # W16
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A[:4]))
    fault = one_fault(cloud.send(connection, states(1, 5, B[:1])))
    assert (fault.code, fault.session) == (FaultCode.POSITION_MISMATCH, 1)
    assert figures(cloud) == (0, 0)


def test_a_higher_epoch_drops_what_is_queued() -> None:  # W18
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A[:4]))
    cloud.run_all()
    cloud.send(connection, states(1, 4, A[4:6], epoch=1))
    cloud.send(connection, states(1, 6, A[6:8], epoch=1))
    cloud.send(connection, states(1, 4, B[:2], epoch=2))
    cloud.run_all()
    first, second = cloud.replies(connection)
    assert (first.epoch, second.epoch, second.cached_tokens) == (0, 2, 6)
    assert rows_of(second.payload) == deep_rows(A[:4] + B[:2], 2)


def test_a_frame_that_runs_when_the_epoch_rises_is_not_answered() -> None:  # W18
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A))
    step = cloud.core.next_step(cloud.now)
    assert step is not None
    cloud.send(connection, states(1, 8, B[:2], epoch=1))
    cloud.finish_step(step)
    cloud.run_all()
    (reply,) = cloud.replies(connection)
    assert rows_of(reply.payload) == deep_rows(A[:8] + B[:2], 2)


def test_an_older_epoch_is_dropped_without_a_word() -> None:  # W18
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A[:4], epoch=5))
    cloud.send(connection, states(1, 9, B[:4], epoch=4))
    cloud.run_all()
    assert [r.epoch for r in cloud.replies(connection)] == [5]


def test_rows_beyond_the_reservation_end_the_session() -> None:  # W19
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1, max_tokens=4))
    fault = one_fault(cloud.send(connection, states(1, 0, A[:5])))
    assert fault.code is FaultCode.CONTEXT_EXCEEDED


# Sessions


def test_states_of_a_session_that_is_over_are_ignored_and_credited() -> None:  # W15
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, Close(SessionId(1)))
    assert figures(cloud) == (0, 0)
    answers = cloud.send_unchecked(connection, states(1, 0, A))
    assert answers == [Credit(CONFIG.credit_window_tokens + len(A))]


def test_states_of_a_session_that_never_was_are_a_fault_of_it() -> None:  # W15
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.devices[connection].send(opening(9, key=9))  # lost on the way
    assert cloud.send(connection, Close(SessionId(5))) == []
    fault = one_fault(cloud.send(connection, states(9, 0, A[:1])))
    assert (fault.code, fault.session) == (FaultCode.UNKNOWN_SESSION, 9)
    assert figures(cloud) == (1, 16)


def test_credit_exceeded_ends_the_connection_but_not_its_sessions() -> None:  # W20, W31
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A))
    cloud.send(connection, states(1, 0, A))
    fault = one_fault(cloud.send_unchecked(connection, states(1, 0, A[:1])))
    assert (fault.code, fault.session) == (FaultCode.CREDIT_EXCEEDED, 0)
    again = cloud.connect()
    assert cloud.send(again, opening(1, key=1)) == [Opened(SessionId(1), 0)]


def test_a_session_outlives_its_socket_and_goes_on_at_its_cached_length() -> None:  # W27, W30
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A[:6], epoch=7))
    cloud.run_all()
    cloud.disconnect(connection)
    cloud.pass_time(CONFIG.session_ttl_s - 1)
    again = cloud.connect()
    assert cloud.send(again, opening(3, key=1)) == [Opened(SessionId(3), 6)]
    cloud.send(again, states(3, 6, B[:2], epoch=0))
    cloud.run_all()
    (reply,) = cloud.replies(again)
    assert rows_of(reply.payload) == deep_rows(A[:6] + B[:2], 2)


def test_a_running_piece_is_not_yet_certain_when_its_session_is_taken_up() -> None:  # W27, W28
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A[:6]))
    cloud.run_all()
    cloud.send(connection, states(1, 4, B[:3]))
    step = cloud.core.next_step(cloud.now)
    assert step is not None
    cloud.disconnect(connection)
    again = cloud.connect()
    cloud.send(again, opening(1, key=1))
    assert Opened(SessionId(1), 4) in cloud.received(again)
    cloud.send(again, states(1, 4, A[4:6]))
    cloud.finish_step(step)
    cloud.run_all()
    (reply,) = cloud.replies(again)
    assert rows_of(reply.payload) == deep_rows(A[:6], 2)


def test_a_session_without_a_socket_ends_after_its_time() -> None:  # W30
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.run_all()
    cloud.disconnect(connection)
    cloud.pass_time(CONFIG.session_ttl_s + 1)
    assert figures(cloud) == (0, 0)
    assert cloud.core.next_step(cloud.now) is not None
    again = cloud.connect()
    assert cloud.send(again, opening(1, key=1)) == [Opened(SessionId(1), 0)]


def test_a_key_in_use_moves_to_the_connection_that_names_it() -> None:  # W27
    cloud = Cloud()
    old, new = cloud.connect(), cloud.connect()
    cloud.send(old, opening(1, key=1))
    cloud.send(old, states(1, 0, A[:4]))
    cloud.run_all()
    cloud.received(old)
    cloud.send(old, states(1, 4, A[4:8]))
    assert cloud.send(new, opening(1, key=1)) == [Opened(SessionId(1), 4)]
    assert cloud.faults(old) == [FaultCode.UNKNOWN_SESSION]
    cloud.run_all()
    assert cloud.replies(old) == []
    assert figures(cloud) == (1, 16)


def test_a_key_with_another_reservation_begins_anew() -> None:  # W27
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1, max_tokens=16))
    cloud.send(connection, states(1, 0, A[:4]))
    cloud.run_all()
    answers = cloud.send(connection, opening(2, key=1, max_tokens=20))
    assert answers[-1] == Opened(SessionId(2), 0)
    assert figures(cloud) == (1, 20)


def test_one_device_cannot_name_anothers_session_without_its_key() -> None:  # W26
    cloud = Cloud()
    owner, stranger = cloud.connect(), cloud.connect()
    cloud.send(owner, opening(1, key=1))
    cloud.send(owner, states(1, 0, A[:4]))
    cloud.run_all()
    cloud.received(owner)
    assert cloud.send(stranger, opening(1, key=2)) == [Opened(SessionId(1), 0)]
    fork = opening(2, key=3, fork_of=SessionId(7), fork_tokens=1)
    assert one_fault(cloud.send(stranger, fork)).code is FaultCode.UNKNOWN_SESSION
    cloud.send(stranger, Close(SessionId(1)))
    cloud.send(owner, states(1, 4, A[4:6]))
    cloud.run_all()
    (reply,) = cloud.replies(owner)
    assert rows_of(reply.payload) == deep_rows(A[:6], 2)


def test_a_fork_begins_with_the_first_positions_of_its_source() -> None:  # W29
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A[:6]))
    cloud.run_all()
    cloud.received(connection)
    fork = opening(2, key=2, fork_of=SessionId(1), fork_tokens=4)
    assert cloud.send(connection, fork) == [Opened(SessionId(2), 4)]
    cloud.send(connection, states(1, 0, B[:6]))
    cloud.send(connection, states(2, 4, B[:2]))
    cloud.send(connection, Close(SessionId(1)))
    cloud.run_all()
    (reply,) = cloud.replies(connection)
    assert rows_of(reply.payload) == deep_rows(A[:4] + B[:2], 2)


def test_a_fork_of_positions_that_are_not_settled_is_refused() -> None:  # W29
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A[:6]))
    cloud.run_all()
    cloud.send(connection, states(1, 3, B[:3]))
    fork = opening(2, key=2, fork_of=SessionId(1), fork_tokens=4)
    fault = one_fault(cloud.send(connection, fork))
    assert (fault.code, fault.session) == (FaultCode.POSITION_MISMATCH, 2)
    assert figures(cloud) == (1, 16)


# Credit


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


# Admission, overload, drain


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


def test_rows_that_wait_too_long_end_their_session() -> None:  # W32
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, opening(2, key=2))
    cloud.send(connection, states(1, 0, A[:2]))
    cloud.pass_time(CONFIG.queue_deadline_s + 1)
    fault = one_fault(cloud.received(connection))
    assert (fault.code, fault.session) == (FaultCode.DEADLINE_EXCEEDED, 1)
    assert fault.retry_after_s > 0
    assert figures(cloud) == (1, 16)


def test_opening_and_closing_faster_than_the_engine_turns_is_bounded() -> None:
    cloud = Cloud()
    connection = cloud.connect()
    codes = []
    for number in range(1, 60):
        cloud.send(connection, opening(number, key=number))
        cloud.send(connection, Close(SessionId(number)))
        codes += cloud.faults(connection)
    assert set(codes) == {FaultCode.TOO_MANY_SESSIONS}
    step = cloud.run_step()
    assert step is not None
    assert len(step.commands) <= 5 * CONFIG.max_sessions
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


# The engine


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
    cloud.run_all()
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


def test_a_step_shrinks_to_the_target_time() -> None:
    cloud = Cloud(replace(CONFIG, target_step_s=0.001))
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A))
    sizes = []
    while (step := cloud.run_step()) is not None:
        sizes.append(step.num_tokens)
    assert sizes == [8, 4]
    cloud.send(connection, states(1, 0, A))
    second = cloud.run_step()
    assert second is not None
    assert second.num_tokens == 2 * CONFIG.verify_tokens


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

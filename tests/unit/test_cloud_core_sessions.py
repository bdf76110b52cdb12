"""The cloud's core: positions, epochs, sessions and their taking up, situation by situation."""

from dataclasses import replace

import pytest

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
from wire.messages import Close, Credit, Opened, SessionId, Want

A = shallow_rows(*range(100, 112))
B = shallow_rows(*range(200, 212))


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


def test_rows_that_follow_each_other_are_in_as_many_steps_as_the_engine_takes() -> None:
    cloud = Cloud(replace(CONFIG, steps_in_flight=3))
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A[:10], Want.LAST))
    cloud.send(connection, states(1, 10, A[10:11]))
    cloud.send(connection, states(1, 11, A[11:]))
    steps = [cloud.core.next_step(cloud.now) for _ in range(3)]
    places = [(item.position, item.num_rows) for step in steps if step for item in step.items]
    assert places == [(0, 8), (8, 2), (10, 1)], "a frame in two pieces, then the next one"
    assert cloud.core.next_step(cloud.now) is None
    assert cloud.core.figures().num_running_sessions == 1
    replies = []
    for step, num_replies in zip(steps, (0, 1, 2), strict=True):
        assert step is not None
        cloud.finish_step(step)
        replies += cloud.replies(connection)
        assert len(replies) == num_replies
    cloud.run_all()
    replies += cloud.replies(connection)
    assert [reply.cached_tokens for reply in replies] == [10, 11, 12]
    assert rows_of(replies[0].payload) == deep_rows(A[:10], 1)
    assert rows_of(replies[2].payload) == deep_rows(A, 1)


def test_rows_that_rewrite_what_runs_wait_for_its_end() -> None:  # W16, W18
    cloud = Cloud(replace(CONFIG, steps_in_flight=3))
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    for position in (0, 2):
        cloud.send(connection, states(1, position, A[position : position + 2]))
    running = [cloud.core.next_step(cloud.now) for _ in range(2)]
    cloud.send(connection, states(1, 4, A[4:6]))
    cloud.send(connection, states(1, 3, B[:3], epoch=1))
    for step in running:
        assert cloud.core.next_step(cloud.now) is None
        assert step is not None
        cloud.finish_step(step)
    assert cloud.run_all() == 1
    last = cloud.replies(connection)[-1]
    assert (last.epoch, last.cached_tokens) == (1, 6)
    assert rows_of(last.payload) == deep_rows(A[:3] + B[:3], 3)


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


def test_states_of_a_session_that_is_over_are_ignored_and_credited() -> None:  # W15
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, Close(SessionId(1)))
    assert figures(cloud) == (0, 0)
    answers = cloud.send_unchecked(connection, states(1, 0, A))
    assert answers == [Credit(CONFIG.credit_window_tokens + len(A))]


def test_states_behind_a_refused_open_are_ignored_and_credited() -> None:  # W15, W26
    cloud = Cloud()
    connection = cloud.connect()
    full = cloud.send(connection, opening(1, key=1, max_tokens=CONFIG.max_context_tokens + 1))
    assert one_fault(full).code is FaultCode.CONTEXT_EXCEEDED
    window = CONFIG.credit_window_tokens
    for sent in (len(A), 2 * len(A), 3 * len(A)):
        answers = cloud.send_unchecked(connection, states(1, 0, A))
        assert answers == [Credit(window + sent)]
    assert figures(cloud) == (0, 0)
    assert cloud.core.next_step(cloud.now) is None


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
    cloud.send(connection, states(1, 0, A[:2]))
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


@pytest.mark.parametrize("is_source_running", [False, True])
def test_a_fork_and_its_source_that_end_at_once_leave_no_work(is_source_running: bool) -> None:
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A[:3]))
    if is_source_running:
        assert cloud.core.next_step(cloud.now) is not None
    cloud.send(connection, opening(2, key=2, fork_of=SessionId(1), fork_tokens=0))
    cloud.send(connection, Close(SessionId(2)))
    if not is_source_running:
        cloud.send(connection, Close(SessionId(1)))
    assert not cloud.core.has_work
    assert cloud.core.next_step(cloud.now) is None


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
    early = cloud.send_unchecked(connection, states(2, 4, B[:2]))
    assert all(isinstance(answer, Credit) for answer in early)


def test_a_fork_and_its_rows_may_run_in_one_step() -> None:  # W26, W29
    cloud = Cloud()
    connection = cloud.connect()
    cloud.send(connection, opening(1, key=1))
    cloud.send(connection, states(1, 0, A[:6]))
    cloud.run_all()
    cloud.received(connection)
    cloud.send(connection, opening(2, key=2, fork_of=SessionId(1), fork_tokens=4))
    cloud.send(connection, states(2, 4, B[:2]))
    step = cloud.run_step()
    assert step is not None
    assert (len(step.commands), len(step.items)) == (1, 1)
    (reply,) = cloud.replies(connection)
    assert rows_of(reply.payload) == deep_rows(A[:4] + B[:2], 2)

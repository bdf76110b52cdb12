"""The cloud's core among several identities: what one may hold, and what it costs the others."""

import sys
from dataclasses import replace
from types import FrameType

import pytest

from cloud_server.core.actions import ConnectionId
from cloud_server.core.config import MAX_CONNECTION_FRAMES, MAX_SESSION_FRAMES
from tests.support.cloud_core import (
    CONFIG,
    Cloud,
    figures,
    one_fault,
    opening,
    shallow_rows,
    states,
)
from wire.errors import FaultCode
from wire.messages import Close, Message, Opened, SessionId, Want, Welcome

A = shallow_rows(*range(100, 112))
MANY = replace(CONFIG, capacity_tokens=640, max_sessions=40, max_connections=8)
LONG = replace(MANY, max_context_tokens=4096, capacity_tokens=1 << 20, credit_window_tokens=1 << 16)


def fill(cloud: Cloud, connection: ConnectionId, key: int = 1, max_tokens: int = 32) -> int:
    """Open sessions until one is refused; how many there are."""
    num_opened = 0
    while True:
        number = cloud.next_session(connection)
        message = opening(number, key + num_opened, max_tokens)
        if not isinstance(cloud.send(connection, message)[-1], Opened):
            return num_opened
        num_opened += 1


def run_rows(cloud: Cloud, connection: ConnectionId, num_sessions: int) -> None:
    """A row of each session."""
    for number in range(1, num_sessions + 1):
        cloud.send(connection, states(number, 0, A[:1]))
        cloud.run_all()
    cloud.received(connection)


@pytest.mark.parametrize("identity", ["somebody else", "hog"], ids=["another", "the same"])
@pytest.mark.parametrize("has_run", [False, True])
@pytest.mark.parametrize("max_tokens", [32, 1], ids=["positions", "sessions"])
def test_who_holds_everything_in_silence_shuts_nobody_out(
    identity: str, has_run: bool, max_tokens: int
) -> None:
    cloud = Cloud(MANY)
    hog = cloud.connect(identity="hog")
    num_opened = fill(cloud, hog, max_tokens=max_tokens)
    assert num_opened == (20 if max_tokens == 32 else 40), "alone, it may have the whole cloud"
    if has_run:
        run_rows(cloud, hog, num_opened)
        cloud.pass_time(CONFIG.quiet_s)
    modest = cloud.connect(identity=identity)
    answers = cloud.send(modest, opening(1, key=100, max_tokens=32))
    assert answers[-1] == Opened(SessionId(1), 0)
    fault = one_fault(cloud.received(hog)[-1:])
    assert fault.code is FaultCode.CAPACITY
    assert fault.retry_after_s > 0, "its device may come back and replay"


def test_who_has_most_gives_way_and_never_below_the_newcomer() -> None:
    cloud = Cloud(MANY)
    hog, modest, late = (cloud.connect(identity=name) for name in ("hog", "modest", "late"))
    cloud.disconnect(modest)
    cloud.disconnect(late)
    cloud.pass_time(1)
    fill(cloud, hog, max_tokens=32)
    late = cloud.connect(identity="late")
    num_opened = 0
    for number in range(1, 21):
        answer = cloud.send(late, opening(number, key=100 + number, max_tokens=32))[-1]
        num_opened += isinstance(answer, Opened)
    assert num_opened == 10, "half each"
    assert len(cloud.faults(hog)) == 11, "ten that gave way, and the one that was refused"


def test_nobody_gives_way_when_that_would_leave_him_less_than_the_newcomer() -> None:
    cloud = Cloud(replace(CONFIG, max_context_tokens=64, identity_share=1.0))
    first, late = cloud.connect(), cloud.connect()
    for number in (1, 2, 3):
        cloud.send(first, opening(number, key=number, max_tokens=16))
    cloud.pass_time(CONFIG.quiet_s)
    fault = one_fault(cloud.send(late, opening(1, key=100, max_tokens=40)))
    assert fault.code is FaultCode.CAPACITY
    assert figures(cloud) == (3, 48), "one of 16 would not have been enough, and two too much"
    assert cloud.send(late, opening(2, key=100, max_tokens=24)) == [Opened(SessionId(2), 0)]
    assert figures(cloud) == (3, 56)


def test_one_session_that_is_enough_gives_way_even_if_a_smaller_one_was_quiet_for_longer() -> None:
    cloud = Cloud(replace(CONFIG, max_context_tokens=64, identity_share=1.0))
    house, office = cloud.connect(identity="house"), cloud.connect(identity="office")
    for number, max_tokens in enumerate((16, 8, 17), 1):
        cloud.send(house, opening(number, key=number, max_tokens=max_tokens))
    cloud.send(office, opening(1, key=101, max_tokens=16))
    cloud.pass_time(CONFIG.quiet_s)
    assert figures(cloud) == (4, 57)
    # 17 positions are short: without those of 16 it would hold 40, house 25, and no more may go.
    assert cloud.send(office, opening(2, key=102, max_tokens=24)) == [Opened(SessionId(2), 0)]
    assert one_fault(cloud.received(house)).session == SessionId(3)
    assert figures(cloud) == (4, 64)


def test_what_gives_way_counts_in_whole_blocks() -> None:
    blocks = replace(CONFIG, block_tokens=16, max_context_tokens=96, capacity_tokens=128)
    cloud = Cloud(replace(blocks, identity_share=1.0))
    first, late = cloud.connect(), cloud.connect()
    for number in range(1, 5):
        cloud.send(first, opening(number, key=number, max_tokens=17))
    cloud.pass_time(CONFIG.quiet_s)
    fault = one_fault(cloud.send(late, opening(1, key=100, max_tokens=80)))
    assert fault.code is FaultCode.CAPACITY
    assert figures(cloud) == (4, 128), "three of 32 would have left less than the newcomer's 80"


def test_an_identity_makes_room_for_itself_in_whole_blocks() -> None:
    blocks = replace(CONFIG, block_tokens=16, max_context_tokens=32, capacity_tokens=96)
    cloud = Cloud(replace(blocks, identity_share=0.5, max_connections=8, max_sessions=8))
    other, lost, first, second = (cloud.connect(identity=name) for name in ("other", *["own"] * 3))
    for number in (1, 2, 3):
        cloud.send(other, opening(number, key=number, max_tokens=16))
    cloud.send(lost, opening(1, key=10, max_tokens=17))
    cloud.send(first, opening(1, key=11, max_tokens=16))
    cloud.disconnect(lost)
    assert cloud.send(second, opening(1, key=12, max_tokens=32)) == [Opened(SessionId(1), 0)]
    assert cloud.faults(other) == cloud.faults(first) == []
    assert figures(cloud) == (5, 96)


def test_a_session_that_runs_or_waits_gives_way_to_nobody() -> None:
    cloud = Cloud(MANY)
    busy = cloud.connect(identity="busy")
    num_opened = fill(cloud, busy)
    for number in range(1, num_opened + 1):
        cloud.send(busy, states(number, 0, A[:1]))
    step = cloud.core.next_step(cloud.now)
    cloud.pass_time(600.0)
    late = cloud.connect(identity="late")
    fault = one_fault(cloud.send(late, opening(1, key=100, max_tokens=32)))
    assert fault.code is FaultCode.CAPACITY
    assert fault.retry_after_s > 0
    assert step is not None
    cloud.finish_step(step)
    cloud.run_all()
    assert len(cloud.replies(busy)) == num_opened
    cloud.pass_time(CONFIG.quiet_s)
    assert cloud.send(late, opening(2, key=100, max_tokens=32)) == [Opened(SessionId(2), 0)]


def test_one_identity_has_its_share_while_others_are_there() -> None:
    cloud = Cloud(MANY)
    first, second, other = (cloud.connect(identity=name) for name in ("hog", "hog", "other"))
    assert fill(cloud, first) == 10
    assert fill(cloud, second, key=50) == 5, "devices of one identity share it"
    fault = one_fault(cloud.send(first, opening(30, key=99, max_tokens=32)))
    assert (fault.code, "one address" in fault.message) == (FaultCode.CAPACITY, True)
    cloud.disconnect(other)
    assert fill(cloud, second, key=70) == 10, "alone, the whole cloud"


def test_a_share_holds_a_session_of_the_whole_context_in_any_case() -> None:
    cloud = Cloud(replace(CONFIG, capacity_tokens=40, identity_share=0.01))
    first, _ = cloud.connect(), cloud.connect()
    assert cloud.send(first, opening(1, key=1, max_tokens=32)) == [Opened(SessionId(1), 0)]


def test_a_session_that_never_ran_a_row_ends_with_the_patience_for_lost_ones() -> None:
    cloud = Cloud(MANY)
    silent, used, talking = (cloud.connect() for _ in range(3))
    for key, connection in enumerate((silent, used, talking), 1):
        cloud.send(connection, opening(1, key=key))
    cloud.send(used, states(1, 0, A[:1]))
    cloud.run_all()
    for number in range(2, 5):
        cloud.pass_time(CONFIG.session_ttl_s / 2)
        cloud.send(talking, opening(number, key=10 + number, max_tokens=1))
        cloud.send(talking, Close(SessionId(number)))
        cloud.run_all()
    assert cloud.faults(silent) == [FaultCode.DEADLINE_EXCEEDED]
    assert cloud.faults(used) == cloud.faults(talking) == []


def test_the_longest_quiet_socket_of_who_has_most_gives_way_to_a_new_identity() -> None:
    cloud = Cloud(MANY)
    many = [cloud.connect(identity="hog") for _ in range(MANY.max_connections)]
    cloud.send(many[0], opening(1, key=1))
    cloud.received(many[0])
    refused = cloud.connect(identity="other")
    assert cloud.faults(refused) == [FaultCode.TOO_MANY_SESSIONS], "they may be about to open"
    cloud.pass_time(CONFIG.quiet_s)
    other = cloud.connect(identity="other")
    assert isinstance(cloud.received(other)[0], Welcome)
    assert cloud.faults(many[1]) == [FaultCode.TOO_MANY_SESSIONS]
    assert cloud.faults(cloud.connect(identity="hog")) == [FaultCode.TOO_MANY_SESSIONS]


@pytest.mark.parametrize("num_connections", [1, 4])
def test_a_neighbour_is_in_the_next_step_however_many_sockets_another_has(
    num_connections: int,
) -> None:
    cloud = Cloud(MANY)
    modest = cloud.connect(identity="modest")
    cloud.send(modest, opening(1, key=100))
    hogs = [cloud.connect(identity="hog") for _ in range(num_connections)]
    for number, hog in enumerate(hogs):
        for session in range(1, 3):
            cloud.send(hog, opening(session, key=10 * number + session))
    sizes = []
    for _ in range(6):
        for hog in hogs:
            for session in range(1, 3):
                if cloud.devices[hog].num_available_tokens >= 6:
                    cloud.send(hog, states(session, 0, A[:3]))
        cloud.send(modest, states(1, 0, A[:2]))
        step = cloud.run_step()
        assert step is not None
        sizes.append([item.num_rows for item in step.items])
        assert len(cloud.replies(modest)) == 1, sizes


def queue_frames(cloud: Cloud, connection: ConnectionId, session: int, num_frames: int) -> None:
    for position in range(num_frames):
        cloud.send(connection, states(session, position, A[:1], Want.NONE))


def test_frames_are_bounded_beyond_what_a_device_leaves_unanswered() -> None:  # W37
    cloud = Cloud(LONG)
    greedy, other = cloud.connect(), cloud.connect()
    for number in (1, 2):
        cloud.send(greedy, opening(number, key=number, max_tokens=4096))
    cloud.send(other, opening(1, key=3))
    queue_frames(cloud, greedy, 1, MAX_SESSION_FRAMES)
    queue_frames(cloud, greedy, 2, MAX_SESSION_FRAMES)
    assert cloud.faults(greedy) == []
    answers = cloud.send(greedy, states(2, MAX_SESSION_FRAMES, A[:1], Want.NONE))
    fault = one_fault(answers)
    assert (fault.code, fault.session) == (FaultCode.CAPACITY, 2)
    assert fault.retry_after_s > 0
    cloud.run_all()
    assert len(cloud.replies(greedy)) == MAX_SESSION_FRAMES, "the other session goes on"


def test_frames_of_a_connection_are_bounded() -> None:  # W37
    cloud = Cloud(LONG)
    greedy = cloud.connect()
    for number in range(1, 30):
        cloud.send(greedy, opening(number, key=number))
        for position in range(60):
            if cloud.devices[greedy].is_live(SessionId(number)):
                cloud.send(greedy, states(number, position % 4, A[:1], Want.NONE))
        assert cloud.core.figures().queued_tokens <= MAX_CONNECTION_FRAMES
    assert set(cloud.faults(greedy)) == {FaultCode.CAPACITY}


def num_calls(cloud: Cloud, connection: ConnectionId, message: Message) -> int:
    """Functions that were called until the answer was there."""
    calls = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    cloud.devices[connection].send(message)
    sys.setprofile(count)
    try:
        cloud.core.receive(connection, message, cloud.now)
        cloud.core.figures()
        _ = cloud.core.is_draining
    finally:
        sys.setprofile(None)
    return calls


def test_a_refused_open_and_the_figures_cost_the_same_however_much_is_queued() -> None:
    costs = []
    for num_frames in (1, 8, MAX_SESSION_FRAMES):
        cloud = Cloud(replace(LONG, capacity_tokens=15 * 1024))
        hog = cloud.connect(identity="hog")
        for number in range(1, 16):
            cloud.send(hog, opening(number, key=number, max_tokens=1024))
            queue_frames(cloud, hog, number, num_frames)
        assert cloud.core.figures().queued_tokens == 15 * num_frames
        cloud.received(hog)
        costs.append(num_calls(cloud, hog, opening(16, key=99)))
        assert cloud.core.receive(hog, opening(17, key=99), cloud.now) != []
    assert costs[0] == costs[1] == costs[2]


def test_a_reply_tells_the_rows_of_its_own_device_in_a_step_and_no_others() -> None:
    cloud = Cloud(MANY)
    busy, other = cloud.connect(), cloud.connect()
    for number in (1, 2):
        cloud.send(busy, opening(number, key=number))
    cloud.send(other, opening(1, key=3))
    cloud.send(busy, states(1, 0, A[:3], Want.LAST))
    cloud.send(busy, states(2, 0, A[:2], Want.LAST))
    cloud.send(other, states(1, 0, A[:1], Want.LAST))
    step = cloud.run_step()
    assert step is not None
    assert step.num_tokens == 6, "all in one"
    assert [reply.batch_tokens for reply in cloud.replies(busy)] == [5, 5]
    assert [reply.batch_tokens for reply in cloud.replies(other)] == [1]


def test_a_refusal_for_want_of_room_does_not_tell_how_much_others_hold() -> None:
    told = set()
    for last in (8, 32):
        cloud = Cloud(MANY)
        hog = cloud.connect(identity="hog")
        for number in range(1, 21):
            cloud.send(hog, opening(number, number, max_tokens=32 if number < 20 else last))
            cloud.send(hog, states(number, 0, A[:1]))
        late = cloud.connect(identity="late")
        fault = one_fault(cloud.send(late, opening(1, key=100, max_tokens=32)))
        assert fault.code is FaultCode.CAPACITY
        told.add((fault.message, fault.retry_after_s))
    assert len(told) == 1

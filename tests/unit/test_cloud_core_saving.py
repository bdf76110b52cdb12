"""Idle sessions that leave the engine for host memory, and come back when their rows do."""

from dataclasses import replace

from cloud_server.core.actions import ConnectionId, RestoreSequence, SaveSequence
from cloud_server.core.session import Home
from tests.support.cloud_core import (
    CONFIG,
    Cloud,
    Row,
    deep_row,
    one_fault,
    opening,
    rows_of,
    shallow_rows,
    states,
)
from wire.errors import FaultCode
from wire.messages import Close, Opened, Reply

SAVING = replace(CONFIG, host_tokens=100, max_sessions=8)
A, B = shallow_rows(*range(100, 112)), shallow_rows(*range(200, 212))


def answers(cloud: Cloud, connection: ConnectionId) -> list[Row]:
    (reply,) = cloud.replies(connection)
    return rows_of(reply.payload)


def filled(cloud: Cloud, connection: ConnectionId, numbers: tuple[int, ...] = (1, 2)) -> None:
    """Sessions of 32 positions, two of which fill the engine, with twelve rows each."""
    for number in numbers:
        cloud.send(connection, opening(number, number, 32))
        cloud.send(connection, states(number, 0, A))
        cloud.run_all()
    cloud.received(connection)
    cloud.now += CONFIG.quiet_s


def homes(cloud: Cloud) -> list[Home]:
    return [session.home for session in cloud.core._sessions.table]


def test_an_idle_conversation_of_ones_own_survives_the_next_and_goes_on():
    cloud = Cloud(SAVING)
    device = cloud.connect()
    filled(cloud, device)
    assert Opened(3, 0) in cloud.send(device, opening(3, 3, 32))
    cloud.send(device, states(3, 0, B))
    cloud.run_all()
    assert answers(cloud, device) == [deep_row(B[: i + 1]) for i in range(12)]
    assert homes(cloud) == [Home.HOST, Home.ENGINE, Home.ENGINE], "the longest idle one"
    shown = cloud.core.figures()
    assert (shown.num_sessions, shown.num_saved_sessions, shown.host_tokens) == (3, 1, 12)
    cloud.now += CONFIG.quiet_s
    cloud.send(device, states(1, 12, B[:3]))
    cloud.run_all()
    assert answers(cloud, device) == [deep_row([*A, *B[: i + 1]]) for i in range(3)]
    assert homes(cloud) == [Home.ENGINE, Home.HOST, Home.ENGINE]
    assert cloud.core.figures().restores == 1


def test_without_host_memory_nobodys_own_session_gives_way():
    cloud = Cloud(replace(SAVING, host_tokens=0))
    device = cloud.connect()
    filled(cloud, device)
    fault = one_fault(cloud.send(device, opening(3, 3, 32)))
    assert fault.code is FaultCode.CAPACITY
    assert homes(cloud) == [Home.ENGINE, Home.ENGINE]


def test_a_long_copy_takes_several_steps_and_stalls_no_decoding():
    cloud = Cloud(replace(SAVING, capacity_tokens=96))
    device, other = cloud.connect(identity="house"), cloud.connect(identity="house")
    filled(cloud, device)
    cloud.send(other, opening(1, 9, 16))
    cloud.send(other, states(1, 0, A[:3]))
    cloud.run_all()
    # The rate is known now: half a millisecond for a position, five milliseconds for a copy.
    cloud.core._sessions.saver._copies.observe(100, 0.05)
    cloud.received(other)
    cloud.send(device, opening(3, 3, 32))
    cloud.send(device, states(3, 0, B[:2]))
    copied, waited = [], 0
    for position in range(3, 9):
        cloud.send(other, states(1, position, A[position : position + 1]))
        step = cloud.run_step()
        copied.append(step.num_copied_tokens)
        waited += not any(item.num_rows == 2 for item in step.items)
        assert len(cloud.replies(other)) == 1, "a row of the neighbour is in every step"
    assert copied == [10, 2, 0, 0, 0, 0]
    assert waited == 5, "the newcomer's rows ran once its room was there"


def test_a_session_that_wants_back_is_told_when_there_was_no_room_in_time():
    cloud = Cloud(replace(SAVING, identity_share=1.0))
    device = cloud.connect(identity="house")
    filled(cloud, device)
    cloud.send(device, opening(3, 3, 32))
    cloud.send(device, states(3, 0, B[:1]))
    cloud.run_all()
    assert homes(cloud)[0] is Home.HOST
    cloud.send(device, states(2, 11, A[11:]))
    cloud.run_all()
    cloud.received(device)
    cloud.send(device, states(1, 12, B[:1]))
    for _ in range(29):
        # The two in the engine are never idle.
        cloud.send(device, states(2, 11, A[11:]))
        cloud.send(device, states(3, 0, B[:1]))
        cloud.run_all()
        cloud.pass_time(1.0)
        assert cloud.faults(device) == []
    cloud.pass_time(1.5)
    fault = one_fault(cloud.received(device))
    assert (fault.code, fault.session) == (FaultCode.CAPACITY, 1)
    assert fault.retry_after_s > 0
    assert cloud.core.figures().host_tokens == 0


def test_rows_wait_no_longer_than_until_somebody_closes():
    cloud = Cloud(replace(SAVING, identity_share=1.0))
    device = cloud.connect()
    filled(cloud, device)
    cloud.send(device, opening(3, 3, 32))
    cloud.send(device, states(3, 0, B[:1]))
    cloud.run_all()
    cloud.send(device, states(2, 11, A[11:]))
    cloud.run_all()
    cloud.received(device)
    cloud.send(device, states(1, 12, B[:1]))
    cloud.run_all()
    assert cloud.replies(device) == []
    cloud.send(device, Close(3))
    cloud.run_all()
    assert answers(cloud, device) == [deep_row([*A, B[0]])]


def test_a_session_without_a_socket_is_saved_and_goes_on_when_its_device_is_back():
    cloud = Cloud(SAVING)
    device, other = cloud.connect(identity="one"), cloud.connect(identity="one")
    filled(cloud, device)
    cloud.disconnect(device)
    cloud.send(other, opening(1, 9, 32))
    cloud.send(other, states(1, 0, B[:2]))
    cloud.run_all()
    assert cloud.core.figures().num_saved_sessions == 1
    back = cloud.connect(identity="one")
    assert Opened(1, 12) in cloud.send(back, opening(1, 1, 32))
    cloud.send(back, states(1, 12, B[:2]))
    cloud.now += CONFIG.quiet_s
    cloud.pass_time(0.1)
    cloud.run_all()
    assert rows_of(cloud.replies(back)[-1].payload) == [
        deep_row([*A, B[0]]),
        deep_row([*A, *B[:2]]),
    ]
    assert cloud.core.figures().num_detached_sessions in {0, 1}
    cloud.pass_time(CONFIG.session_ttl_s + 1)
    assert cloud.core.figures().num_detached_sessions == 0, "no longer than any session"


def test_a_fork_of_a_saved_session_begins_as_its_copy():
    cloud = Cloud(SAVING)
    device = cloud.connect()
    filled(cloud, device)
    cloud.send(device, opening(3, 3, 32))
    cloud.send(device, states(3, 0, B[:1]))
    cloud.run_all()
    cloud.now += CONFIG.quiet_s
    cloud.received(device)
    assert Opened(4, 9) in cloud.send(device, opening(4, 4, 32, fork_of=1, fork_tokens=9))
    cloud.send(device, Close(1))
    cloud.send(device, states(4, 9, B[:2]))
    cloud.run_all()
    expected = [*A[:9], *B[:2]]
    assert answers(cloud, device) == [deep_row(expected[:10]), deep_row(expected)]
    assert len(cloud.engine.copies) == 1, "that of the second; the first one's has no reader"


def test_host_memory_is_kept_within_its_bound_and_the_longest_idle_go():
    cloud = Cloud(replace(SAVING, host_tokens=25))
    device = cloud.connect()
    numbers = (1, 2, 3, 4, 5)
    for number in numbers:
        filled(cloud, device, (number,))
    assert cloud.core.figures().host_tokens == 24
    assert cloud.core.figures().dropped_copies == 1
    assert [session.number for session in cloud.core._sessions.table] == [2, 3, 4, 5]


def test_a_failed_copy_ends_its_session_and_no_other():
    cloud = Cloud(SAVING)
    device = cloud.connect()
    filled(cloud, device)
    cloud.send(device, opening(3, 3, 32))
    cloud.send(device, states(3, 0, B[:1]))
    step = cloud.core.next_step(cloud.now)
    (saved,) = [each for each in step.commands if isinstance(each, SaveSequence)]
    cloud.engine.refused_copies.add(saved.handle)
    cloud.finish_step(step)
    fault = one_fault(messages := cloud.received(device))
    assert (fault.code, fault.session) == (FaultCode.CAPACITY, 1)
    (reply,) = [each for each in messages if isinstance(each, Reply)]
    assert rows_of(reply.payload) == [deep_row(B[:1])]


def test_a_lost_engine_has_no_copies_either():
    cloud = Cloud(SAVING)
    device = cloud.connect()
    filled(cloud, device)
    cloud.send(device, opening(3, 3, 32))
    cloud.run_all()
    cloud.lose_engine(1.0)
    cloud.core.engine_ready()
    shown = cloud.core.figures()
    assert (shown.num_sessions, shown.host_tokens, shown.reserved_tokens) == (0, 0, 0)
    filled(cloud, device, (11, 12))


def test_a_truncated_session_comes_back_whole_and_is_truncated_then():
    cloud = Cloud(SAVING)
    device = cloud.connect()
    filled(cloud, device)
    cloud.send(device, opening(3, 3, 32))
    cloud.send(device, states(3, 0, B[:1]))
    cloud.run_all()
    cloud.received(device)
    cloud.now += CONFIG.quiet_s
    cloud.send(device, states(1, 5, B[:1]))
    steps = []
    while (step := cloud.run_step()) is not None:
        steps.append(step)
    restored = [c for step in steps for c in step.commands if isinstance(c, RestoreSequence)]
    assert restored[-1].end == 12
    assert answers(cloud, device) == [deep_row([*A[:5], B[0]])]

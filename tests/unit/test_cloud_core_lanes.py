"""The cloud's core: further sockets of a device, and the frames that come over them in pieces."""

import random
from dataclasses import replace

import pytest

from cloud_server.core.actions import ConnectionId
from tests.support.cloud_core import (
    CONFIG,
    HELLO,
    Cloud,
    deep_rows,
    one_fault,
    opening,
    rows_of,
    shallow_rows,
    states,
)
from wire.codec import encode
from wire.errors import FaultCode
from wire.lanes import Cutter
from wire.limits import MAX_LANES
from wire.messages import (
    Ability,
    Close,
    Credit,
    Fault,
    Hello,
    Join,
    Joined,
    Message,
    Opened,
    Piece,
    SessionId,
    Welcome,
)

KEY = b"k" * 16
LANED = replace(CONFIG, max_lanes=8, credential=b"secret")
ASKING = replace(HELLO, codecs=HELLO.codecs | 1 << Ability.LANES, credential=b"secret")
JOIN = Join(1, KEY, b"secret")
A = shallow_rows(*range(100, 112))


def laned_cloud(num_lanes: int = 2) -> tuple[Cloud, ConnectionId, list[ConnectionId]]:
    cloud = Cloud(LANED)
    device = cloud.connect(ASKING, "device 1", KEY)
    return cloud, device, [cloud.join(JOIN) for _ in range(num_lanes)]


def cut(sequence: int, message: Message, num_bytes: int = 512) -> list[Piece]:
    cutter = Cutter(sequence, encode(message))
    pieces = []
    while cutter.num_left:
        pieces.append(cutter.cut(num_bytes))
    return pieces


def test_a_device_that_asks_is_given_a_key_and_others_are_not() -> None:  # W44
    cloud, device, _ = laned_cloud(0)
    (welcome,) = cloud.received(device)
    assert isinstance(welcome, Welcome)
    assert welcome.lane_key == KEY
    old = cloud.connect(replace(HELLO, credential=b"secret"), "device 2", b"q" * 16)
    (welcome,) = cloud.received(old)
    assert isinstance(welcome, Welcome)
    assert welcome.lane_key == b""
    assert welcome.codecs >> Ability.LANES == 0


def test_a_frame_in_pieces_is_answered_as_a_whole_one() -> None:  # W45
    cloud, device, lanes = laned_cloud()
    cloud.send(device, opening(1, key=1))
    cloud.devices[device].send(states(1, 0, A[:4]))
    for number, piece in enumerate(reversed(cut(0, states(1, 0, A[:4])))):
        assert cloud.send_unchecked(lanes[number % 2], piece) == []
    cloud.run_all()
    (reply,) = cloud.replies(device)
    assert rows_of(reply.payload) == deep_rows(A[:4], 4)
    assert cloud.core.figures().num_lanes == 2
    assert cloud.core.figures().num_connections == 1


def test_rows_in_pieces_wait_for_their_session_and_those_behind_them_too() -> None:  # W46
    cloud, device, (lane, _) = laned_cloud()
    first, second = states(2, 0, A[:3]), states(1, 0, A[:2])
    cloud.send(device, opening(1, key=1))
    for piece in (*cut(0, first), *cut(1, second)):
        assert cloud.send_unchecked(lane, piece) == []
    assert cloud.run_all() == 0 or not cloud.replies(device)
    cloud.send(device, opening(2, key=2))
    cloud.devices[device].send(first)
    cloud.devices[device].send(second)
    cloud.run_all()
    assert {reply.session for reply in cloud.replies(device)} == {1, 2}


def test_what_a_close_or_a_higher_epoch_overtakes_is_void_and_its_credit_comes_back() -> None:
    cloud, device, (lane, _) = laned_cloud()  # W46, W15, W18
    cloud.send(device, opening(1, key=1))
    cloud.send(device, opening(2, key=2))
    closed, stale = states(1, 0, A[:12]), states(2, 0, A[:12])
    cloud.devices[device].send(closed)
    cloud.devices[device].send(stale)
    cloud.send(device, Close(SessionId(1)))
    pieces = [*cut(0, closed), *cut(1, stale)]
    cloud.send_unchecked(lane, pieces[0])
    assert [m for m in cloud.received(device) if isinstance(m, Credit)]
    # Sent in place of `stale`, and there before it.
    cloud.now += 1.0
    cloud.core.receive(device, states(2, 0, A[:2], epoch=1), cloud.now)
    cloud.send_unchecked(lane, pieces[1])
    cloud.run_all()
    replies = cloud.replies(device)
    assert [(reply.session, reply.epoch) for reply in replies] == [(2, 1)]


@pytest.mark.parametrize(
    ("join", "code"),
    [
        (replace(JOIN, version=2), FaultCode.UNSUPPORTED_VERSION),
        (replace(JOIN, credential=b"guess"), FaultCode.BAD_CREDENTIAL),
        (replace(JOIN, lane_key=b"q" * 16), FaultCode.UNKNOWN_SESSION),
        # No key of a device: that of a socket which has said nothing.
        (replace(JOIN, lane_key=bytes(16)), FaultCode.UNKNOWN_SESSION),
    ],
)
def test_a_socket_that_may_not_join_is_told_why_and_closed(join: Join, code: FaultCode) -> None:
    cloud, device, _ = laned_cloud(0)  # W44
    cloud.received(device)
    lane = cloud.join(join)
    fault = one_fault(cloud.received(lane))
    assert (fault.code, fault.session) == (code, 0)
    assert lane in cloud.closed
    assert cloud.received(device) == []
    assert cloud.core.figures().num_lanes == 0


def test_a_connection_has_no_more_lanes_than_the_cloud_takes() -> None:  # W44
    cloud, _, lanes = laned_cloud(8)
    assert all(cloud.received(lane) == [Joined()] for lane in lanes)
    refused = cloud.join(JOIN)
    assert one_fault(cloud.received(refused)).code is FaultCode.TOO_MANY_SESSIONS
    cloud.core.disconnect(lanes[0], cloud.now)
    assert cloud.received(cloud.join(JOIN)) == [Joined()]
    many = Cloud(replace(LANED, max_lanes=200))
    many.connect(ASKING, "device 1", KEY)
    for _ in range(MAX_LANES):
        many.join(JOIN)
    assert one_fault(many.received(many.join(JOIN))).code is FaultCode.TOO_MANY_SESSIONS
    assert many.core.figures().num_lanes == MAX_LANES


def test_more_than_sixteen_lanes_leave_half_of_the_places_to_those_who_come_later() -> None:
    cloud = Cloud(replace(LANED, max_lanes=100))  # W44
    cloud.connect(ASKING, "device 1", KEY)
    assert sum(cloud.received(cloud.join(JOIN)) == [Joined()] for _ in range(64)) == 50
    for number in (2, 3):
        cloud.connect(ASKING, f"device {number}", bytes([number]) * 16)
        join = Join(1, bytes([number]) * 16, b"secret")
        address = f"device {number}"
        found = [cloud.received(cloud.join(join, address)) == [Joined()] for _ in range(20)]
        assert found == [True] * 16 + [False] * 4


def test_lanes_are_shared_out_among_devices_and_addresses() -> None:  # W44
    cloud = Cloud(LANED)
    for number in (1, 2):
        cloud.connect(ASKING, f"device {number}", bytes([number]) * 16)
    first = [cloud.join(Join(1, bytes([1]) * 16, b"secret")) for _ in range(6)]
    second = [cloud.join(Join(1, bytes([2]) * 16, b"secret"), "device 2") for _ in range(4)]
    assert [cloud.received(lane) == [Joined()] for lane in first] == [True] * 4 + [False] * 2
    assert all(cloud.received(lane) == [Joined()] for lane in second)


def test_lanes_end_with_their_connection_and_not_the_other_way_round() -> None:  # W44, W47
    cloud, device, lanes = laned_cloud(3)
    cloud.send(device, opening(1, key=1))
    cloud.send_unchecked(lanes[0], Piece(0, 600, 0, bytes(512)))
    cloud.core.disconnect(lanes[0], cloud.now)
    assert cloud.core.figures().num_lanes == 2
    cloud.send(device, states(1, 0, A[:2]))
    cloud.run_all()
    assert len(cloud.replies(device)) == 1
    cloud.disconnect(device)
    assert set(lanes[1:]) <= cloud.closed
    assert cloud.core.figures().num_lanes == 0


@pytest.mark.parametrize(
    ("piece", "code"),
    [
        (cut(0, Close(SessionId(1)))[0], FaultCode.BAD_FRAME),
        (cut(0, ASKING)[0], FaultCode.BAD_FRAME),
        (Piece(0, 600, 0, bytes(600)), FaultCode.BAD_FRAME),
        (Piece(0, 1 << 31, 0, bytes(1000)), FaultCode.BAD_FRAME),
        (Piece(10_000, 1000, 0, bytes(1000)), FaultCode.CREDIT_EXCEEDED),
    ],
)
def test_what_is_wrong_with_pieces_ends_their_connection(piece: Piece, code: FaultCode) -> None:
    cloud, device, (lane, other) = laned_cloud()  # W45
    cloud.received(device)
    cloud.send_unchecked(lane, piece)
    assert one_fault(cloud.received(device)).code is code
    assert {device, lane, other} <= cloud.closed
    assert cloud.send_unchecked(other, Piece(0, 10, 0, bytes(10))) == []


def test_what_is_no_piece_ends_its_lane_alone() -> None:  # W45
    cloud, device, (lane, other) = laned_cloud()
    cloud.received(device)
    assert one_fault(cloud.send_unchecked(lane, opening(1, key=1))).code is FaultCode.BAD_FRAME
    assert cloud.received(device) == []
    assert lane in cloud.closed
    assert cloud.core.figures().num_lanes == 1
    assert other not in cloud.closed


def test_a_lane_outlives_the_time_for_a_hello_and_a_drain_until_its_connection_ends() -> None:
    cloud, device, lanes = laned_cloud()
    cloud.pass_time(LANED.handshake_timeout_s + 1.0)
    assert not cloud.closed
    cloud.send(device, opening(1, key=1))
    cloud.core.drain()
    cloud.pass_time(1.0)
    assert not cloud.closed & set(lanes)
    cloud.shut_down()
    assert {device, *lanes} <= cloud.closed
    assert [m.code for m in cloud.received(device) if isinstance(m, Fault)] == [FaultCode.DRAINING]


def test_any_cut_and_any_order_of_many_frames_gives_the_same_answers() -> None:  # W45, W46
    draws = random.Random(3)
    for _ in range(40):
        cloud, device, lanes = laned_cloud(3)
        cloud.send(device, opening(1, key=1))
        pieces = []
        for sequence in range(4):
            frame = states(1, 3 * sequence, A[3 * sequence : 3 * sequence + 3])
            cloud.devices[device].send(frame)
            pieces += cut(sequence, frame)
        draws.shuffle(pieces)
        for piece in pieces:
            cloud.send_unchecked(draws.choice(lanes), piece)
        cloud.run_all()
        rows = [row for reply in cloud.replies(device) for row in rows_of(reply.payload)]
        assert rows == deep_rows(A, 12)


def test_a_welcome_is_for_a_hello_alone() -> None:  # W44
    cloud, _, (lane, _) = laned_cloud()
    cloud.received(lane)
    assert isinstance(ASKING, Hello)
    assert one_fault(cloud.send_unchecked(lane, ASKING)).code is FaultCode.BAD_FRAME
    assert not [m for m in cloud.received(lane) if isinstance(m, Welcome | Opened)]

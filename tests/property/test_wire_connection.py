"""Both sides' tables: what is legal when, credit that never falls, session numbers used once."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.examples import at_most
from tests.support.wire_messages import messages
from wire.codec import MessageSide, side_of
from wire.connection import CloudConnection, DeviceConnection, Phase
from wire.credit import CreditGiver, CreditTaker
from wire.errors import FaultCode, LocalProtocolError, RemoteProtocolError
from wire.limits import MAX_TAPS, RowLimits
from wire.messages import (
    NO_SESSION,
    Close,
    Codec,
    Credit,
    Dtype,
    Fault,
    Hello,
    Join,
    Joined,
    Message,
    Open,
    Opened,
    Piece,
    Reply,
    SessionId,
    States,
    Want,
    Welcome,
)

ROWS = RowLimits(hidden_size=2, dtype=Dtype.FP16, max_frame_tokens=8)
HELLO = Hello(1, 1, b"f" * 32, 0, 4, 2, 0b010, 0b1, b"")
WELCOME = Welcome(1, Dtype.FP16, 0b1, 100, 8, 16, 30.0)


def states(session: int, num_rows: int = 1) -> States:
    place = (SessionId(session), 0, 0, num_rows)
    return States(*place, Dtype.FP16, Codec.RAW, Want.ALL, bytes(4 * num_rows))


def reply(session: int) -> Reply:
    return Reply(SessionId(session), 0, 0, 1, Dtype.FP16, Codec.RAW, 1, 0.0, 0.0, 1, bytes(4))


def opening(session: int) -> Open:
    return Open(SessionId(session), b"k" * 16, 10)


def open_device(*sessions: int) -> DeviceConnection:
    device = DeviceConnection()
    device.send(HELLO)
    device.receive(WELCOME)
    for session in sessions:
        device.send(opening(session))
    return device


def open_cloud() -> CloudConnection:
    cloud = CloudConnection(ROWS, window_tokens=16)
    cloud.receive(HELLO)
    cloud.send(WELCOME)
    return cloud


@given(message=messages)
def test_neither_side_sends_the_others_messages(message: Message) -> None:  # W2
    side = open_cloud() if side_of(message) is MessageSide.DEVICE else open_device(1)
    with pytest.raises(LocalProtocolError):
        side.send(message)


@given(message=messages)
def test_neither_side_takes_its_own_messages(message: Message) -> None:  # W2
    side = open_device(1) if side_of(message) is MessageSide.DEVICE else open_cloud()
    with pytest.raises(RemoteProtocolError) as refused:
        side.receive(message)
    assert refused.value.code is FaultCode.BAD_FRAME


@given(message=messages.filter(lambda m: not isinstance(m, Hello | Join | Fault)))
def test_nothing_but_hello_join_and_fault_comes_before_the_handshake(
    message: Message,
) -> None:  # W2
    with pytest.raises(LocalProtocolError):
        DeviceConnection().send(message)
    with pytest.raises(RemoteProtocolError):
        DeviceConnection().receive(message)
    with pytest.raises(RemoteProtocolError):
        CloudConnection(ROWS, 16).receive(message)


@given(message=messages)
def test_nothing_comes_after_the_end(message: Message) -> None:  # W2, W31
    device, cloud = open_device(1), open_cloud()
    device.receive(Fault(FaultCode.DRAINING, NO_SESSION, 1.0, "stop"))
    cloud.send(Fault(FaultCode.DRAINING, NO_SESSION, 1.0, "stop"))
    assert device.phase is cloud.phase is Phase.CLOSED
    for side in (device, cloud):
        with pytest.raises(LocalProtocolError):
            side.send(message)
        with pytest.raises(RemoteProtocolError):
            side.receive(message)


def test_the_handshake_is_done_once() -> None:  # W2
    with pytest.raises(LocalProtocolError):
        open_device().send(HELLO)
    with pytest.raises(RemoteProtocolError):
        open_device().receive(WELCOME)
    with pytest.raises(RemoteProtocolError):
        open_cloud().receive(HELLO)
    with pytest.raises(LocalProtocolError):
        open_cloud().send(WELCOME)


@given(numbers=st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_a_session_number_is_above_all_before_it(numbers: list[int]) -> None:  # W15
    device, cloud, highest = open_device(), open_cloud(), 0
    for number in numbers:
        if number > highest:
            device.send(opening(number))
            cloud.receive(opening(number))
            highest = number
            assert device.is_live(SessionId(number))
            assert cloud.was_opened(SessionId(number))
        else:
            with pytest.raises(LocalProtocolError):
                device.send(opening(number))
            with pytest.raises(RemoteProtocolError):
                cloud.receive(opening(number))


@pytest.mark.parametrize("ending", [Close(SessionId(1)), None])
def test_a_session_that_is_over_takes_no_states_but_late_replies(  # W15, W25
    ending: Close | None,
) -> None:
    device = open_device(1)
    if ending is None:
        device.receive(Fault(FaultCode.INTERNAL, SessionId(1), 1.0, "engine"))
    else:
        device.send(ending)
    assert not device.is_live(SessionId(1))
    with pytest.raises(LocalProtocolError):
        device.send(states(1))
    device.receive(reply(1))
    device.receive(Opened(SessionId(1), 0))
    device.receive(Fault(FaultCode.UNKNOWN_SESSION, SessionId(1), 0.0, "late"))


@pytest.mark.parametrize("is_refused", [False, True])
def test_states_may_follow_their_open_before_its_answer(is_refused: bool) -> None:  # W26
    device, cloud = open_device(), open_cloud()
    for message in (opening(1), states(1, num_rows=8), states(1, num_rows=8)):
        device.send(message)
        cloud.receive(message)
    refusal = Fault(FaultCode.CAPACITY, SessionId(1), 1.0, "full")
    answers = [refusal] if is_refused else [Opened(SessionId(1), 0), reply(1), reply(1)]
    for answer in [*answers, *_credits(cloud.give_back(16))]:
        cloud.send(answer)
        device.receive(answer)
    assert device.is_live(SessionId(1)) is not is_refused
    assert device.num_available_tokens == 16


def test_the_cloud_cannot_speak_of_sessions_that_never_were() -> None:
    for message in (
        reply(2),
        Opened(SessionId(2), 0),
        Fault(FaultCode.INTERNAL, SessionId(2), 0, ""),
    ):
        with pytest.raises(RemoteProtocolError) as refused:
            open_device(1).receive(message)
        assert refused.value.code is FaultCode.UNKNOWN_SESSION


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (states(1, num_rows=9), FaultCode.BAD_FRAME),
        (
            States(SessionId(1), 0, 0, 1, Dtype.BF16, Codec.RAW, Want.ALL, bytes(4)),
            FaultCode.SHAPE_MISMATCH,
        ),
        (
            States(SessionId(1), 0, 0, 1, Dtype.FP16, Codec.RAW, Want.ALL, bytes(8)),
            FaultCode.SHAPE_MISMATCH,
        ),
    ],
)
def test_rows_of_another_shape_are_stopped_on_both_sides(  # W7
    frame: States, code: FaultCode
) -> None:
    with pytest.raises(LocalProtocolError) as ours:
        open_device(1).send(frame)
    with pytest.raises(RemoteProtocolError) as theirs:
        open_cloud().receive(frame)
    assert ours.value.code is theirs.value.code is code


def test_rows_beyond_the_credit_are_stopped_on_both_sides() -> None:  # W20
    device, cloud = open_device(1), open_cloud()
    for _ in range(2):
        device.send(states(1, num_rows=8))
        cloud.receive(states(1, num_rows=8))
    assert device.num_available_tokens == 0
    with pytest.raises(LocalProtocolError) as ours:
        device.send(states(1))
    with pytest.raises(RemoteProtocolError) as theirs:
        cloud.receive(states(1))
    assert ours.value.code is theirs.value.code is FaultCode.CREDIT_EXCEEDED


def _credits(credit: Credit | None) -> list[Credit]:
    return [] if credit is None else [credit]


@settings(max_examples=at_most(200))
@given(window=st.integers(1, 200), data=st.data())
def test_credit_bounds_what_is_outstanding_and_never_runs_dry(  # W20, W22
    window: int, data: st.DataObject
) -> None:
    giver, taker, outstanding = CreditGiver(window), CreditTaker(window), 0
    late: list[Credit] = []
    for _ in range(data.draw(st.integers(1, 40))):
        if outstanding and data.draw(st.booleans()):
            num_rows = data.draw(st.integers(1, outstanding))
            late += _credits(giver.give_back(num_rows))
            outstanding -= num_rows
        elif taker.num_available:
            num_rows = data.draw(st.integers(1, taker.num_available))
            taker.send(num_rows)
            giver.receive(num_rows)
            outstanding += num_rows
        if len(late) > 0 and data.draw(st.booleans()):
            taker.receive(late.pop(0))
        assert giver.num_outstanding == outstanding <= window
    late += _credits(giver.give_back(outstanding))
    for credit in late:
        taker.receive(credit)
    assert 4 * taker.num_available > 3 * window - 4


@given(limits=st.lists(st.integers(0, 1000), max_size=10))
def test_a_credit_that_repeats_or_falls_changes_nothing(limits: list[int]) -> None:  # W21
    taker = CreditTaker(100)
    for limit in limits:
        taker.receive(Credit(limit))
        taker.receive(Credit(limit))
    assert taker.num_available == max([100, *limits])


def test_an_excess_is_not_counted() -> None:  # W20
    giver = CreditGiver(4)
    with pytest.raises(RemoteProtocolError):
        giver.receive(5)
    assert giver.num_outstanding == 0
    giver.receive(4)


TAPPED_HELLO = dataclasses.replace(HELLO, codecs=0b101)
TAPPED_WELCOME = dataclasses.replace(WELCOME, codecs=0b101)


def tapped_reply(session: int, num_rows: int, codec: Codec, num_bytes: int) -> Reply:
    place = (SessionId(session), 0, 0, num_rows)
    return Reply(*place, Dtype.FP16, codec, num_rows, 0.0, 0.0, 1, bytes(num_bytes))


@pytest.mark.parametrize("hello", [HELLO, TAPPED_HELLO])
@pytest.mark.parametrize("welcome", [WELCOME, TAPPED_WELCOME])
def test_taps_are_asked_for_only_where_both_sides_know_them(
    hello: Hello, welcome: Welcome
) -> None:  # W38
    tapped = dataclasses.replace(opening(1), taps=0b10000)
    knows = hello is TAPPED_HELLO and welcome is TAPPED_WELCOME
    cloud = CloudConnection(dataclasses.replace(ROWS, codecs=welcome.codecs), window_tokens=16)
    cloud.receive(hello)
    cloud.send(dataclasses.replace(welcome, codecs=welcome.codecs & hello.codecs))
    device = DeviceConnection()
    device.send(hello)
    device.receive(dataclasses.replace(welcome, codecs=welcome.codecs & hello.codecs))
    if knows:
        device.send(tapped)
        cloud.receive(tapped)
        return
    with pytest.raises(LocalProtocolError, match="without taps"):
        device.send(tapped)
    with pytest.raises(RemoteProtocolError, match="without taps"):
        cloud.receive(tapped)
    assert not cloud.was_opened(tapped.session)


@pytest.mark.parametrize(
    ("num_rows", "codec", "num_bytes", "code"),
    [
        (2, Codec.TAPPED, 2 * 3 * 4, None),
        (0, Codec.TAPPED, 0, None),
        (2, Codec.TAPPED, 2 * 2 * 4, FaultCode.SHAPE_MISMATCH),
        (2, Codec.TAPPED, 2 * 4 * 4, FaultCode.SHAPE_MISMATCH),
        (2, Codec.RAW, 2 * 4, FaultCode.BAD_FRAME),
        (0, Codec.RAW, 0, FaultCode.BAD_FRAME),
    ],
)
def test_each_row_of_a_tapped_session_brings_its_taps(
    num_rows: int, codec: Codec, num_bytes: int, code: FaultCode | None
) -> None:  # W38
    device = DeviceConnection()
    device.send(TAPPED_HELLO)
    device.receive(TAPPED_WELCOME)
    device.send(dataclasses.replace(opening(1), taps=0b101000))
    device.send(opening(2))
    message = tapped_reply(1, num_rows, codec, num_bytes)
    if code is None:
        device.receive(message)
    else:
        with pytest.raises(RemoteProtocolError) as refused:
            device.receive(message)
        assert refused.value.code is code
    with pytest.raises(RemoteProtocolError):
        device.receive(tapped_reply(2, 2, Codec.TAPPED, 2 * 3 * 4))
    device.receive(reply(2))


def test_what_crosses_with_a_close_is_no_longer_counted_but_bounded() -> None:  # W25, W38
    device = DeviceConnection()
    device.send(TAPPED_HELLO)
    device.receive(TAPPED_WELCOME)
    device.send(dataclasses.replace(opening(1), taps=0b101000))
    device.send(Close(SessionId(1)))
    device.receive(tapped_reply(1, 2, Codec.TAPPED, 2 * 3 * 4))
    device.receive(tapped_reply(1, 2, Codec.TAPPED, 2 * (1 + MAX_TAPS) * 4))
    for num_bytes in (2 * (2 + MAX_TAPS) * 4, 2 * 3 * 4 + 4):
        with pytest.raises(RemoteProtocolError):
            device.receive(tapped_reply(1, 2, Codec.TAPPED, num_bytes))


def test_on_a_lane_the_device_sends_pieces_and_nothing_else() -> None:  # W45
    lane = CloudConnection(ROWS, 16)
    lane.receive(Join(1, bytes(16), b""))
    lane.send(Joined())
    assert lane.phase is Phase.LANE
    lane.receive(Piece(0, 10, 0, bytes(10)))
    for message in (HELLO, Join(1, bytes(16), b""), Open(SessionId(1), bytes(16), 8), states(1)):
        with pytest.raises(RemoteProtocolError, match="has no place in LANE"):
            lane.receive(message)
    with pytest.raises(LocalProtocolError, match="has no place in LANE"):
        lane.send(Credit(3))
    lane.send(Fault(FaultCode.DRAINING, NO_SESSION, 1.0, "stop"))
    assert lane.phase is Phase.CLOSED

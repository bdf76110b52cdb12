"""The codec: every message survives it, and no byte string can do worse than be refused."""

import dataclasses
import random
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.examples import at_most
from tests.support.wire_messages import (
    CODED,
    faults,
    hellos,
    messages,
    opens,
    replies,
    states,
    welcomes,
)
from wire.codec import MessageSide, decode, encode, side_of
from wire.errors import FaultCode, LocalProtocolError, RemoteProtocolError
from wire.extensions import encode_extensions
from wire.limits import (
    MAX_CREDENTIAL_BYTES,
    MAX_EXTENSION_BYTES,
    MAX_FAULT_MESSAGE_BYTES,
    MAX_HANDSHAKE_BYTES,
)
from wire.messages import (
    Codec,
    Dtype,
    Fault,
    Hello,
    Join,
    Message,
    Open,
    Piece,
    Reply,
    SessionId,
    States,
    Welcome,
)

_CODEC_OFFSET = 18
"""Of States and of Reply."""


def decoded_or_none(frame: bytes) -> Message | None:
    """The message, or None when the frame is refused as W6 says."""
    try:
        return decode(frame)
    except RemoteProtocolError as error:
        if error.code is not FaultCode.BAD_FRAME:
            raise
        return None


@settings(max_examples=at_most(300))
@given(message=messages)
def test_every_message_comes_back_equal(message: Message) -> None:
    assert decode(encode(message)) == message


@given(message=messages)
def test_a_frame_may_be_any_bytes_like_object(message: Message) -> None:
    frame = encode(message)
    assert decode(bytearray(frame)) == decode(memoryview(frame)) == message


@given(message=states() | replies())
def test_a_payload_is_a_view_of_its_frame(message: States | Reply) -> None:
    frame = encode(message)
    payload = typing.cast(States | Reply, decode(frame)).payload
    assert isinstance(payload, memoryview)
    assert payload.obj is frame


@given(message=states() | replies())
def test_payloads_begin_at_a_multiple_of_four_bytes(message: States | Reply) -> None:
    assert (len(encode(message)) - len(message.payload)) % 4 == 0


@given(message=states() | replies())
def test_the_reserved_codec_is_refused_by_its_name(message: States | Reply) -> None:  # W36
    frame = bytearray(encode(message))
    frame[_CODEC_OFFSET] = 1
    with pytest.raises(RemoteProtocolError, match="expected codec 0, got 1, which is reserved"):
        decode(frame)


@settings(max_examples=at_most(100))
@given(seed=st.integers(0, 2**32))
def test_random_bytes_decode_or_are_refused(seed: int) -> None:  # W6
    draws = random.Random(seed)
    for _ in range(100):
        frame = bytes([draws.randrange(12)]) + draws.randbytes(draws.randrange(64))
        message = decoded_or_none(frame)
        assert message is None or encode(message) == frame


@settings(max_examples=at_most(200))
@given(message=messages, seed=st.integers(0, 2**32))
def test_mutated_frames_decode_or_are_refused(message: Message, seed: int) -> None:  # W6
    draws = random.Random(seed)
    original = encode(message)
    for _ in range(30):
        frame = bytearray(original)
        for _ in range(draws.randrange(1, 4)):
            frame[draws.randrange(min(len(frame), 60))] = draws.choice((0, 1, 127, 128, 255))
        again = decoded_or_none(bytes(frame))
        assert again is None or encode(again) == frame


@given(message=messages, data=st.data())
def test_a_shortened_header_is_refused(message: Message, data: st.DataObject) -> None:  # W3
    tail = b""
    match message:
        case States() | Reply():
            tail = bytes(message.payload)
        case Hello() | Join():
            tail = message.credential
        case Welcome():
            tail = encode_extensions(message.tables, message.lane_key)
        case Piece():
            tail = bytes(message.part)
        case Fault():
            tail = message.message.encode()
    frame = encode(message)
    num_kept = data.draw(st.integers(0, len(frame) - len(tail) - 1))
    assert decoded_or_none(frame[:num_kept]) is None


def _has_an_end(message: Message) -> bool:
    if isinstance(message, States | Reply):
        return message.codec not in CODED
    return not isinstance(message, Hello | Fault | Join | Piece)


@given(message=messages.filter(_has_an_end))
def test_a_trailing_byte_is_refused(message: Message) -> None:  # W3
    assert decoded_or_none(encode(message) + b"\0") is None


@given(hello=hellos())
def test_a_handshake_fits_its_bound_and_a_longer_credential_is_refused(hello: Hello) -> None:  # W4
    assert len(encode(hello)) <= MAX_HANDSHAKE_BYTES
    frame = encode(dataclasses.replace(hello, credential=b""))
    assert decoded_or_none(frame + bytes(MAX_CREDENTIAL_BYTES)) is not None
    assert decoded_or_none(frame + bytes(MAX_CREDENTIAL_BYTES + 1)) is None


@given(fault=faults)
def test_a_fault_fits_its_bound_and_a_longer_text_is_refused(fault: Fault) -> None:  # W4
    frame = encode(dataclasses.replace(fault, message=""))
    assert decoded_or_none(frame + b"x" * MAX_FAULT_MESSAGE_BYTES) is not None
    assert decoded_or_none(frame + b"x" * (MAX_FAULT_MESSAGE_BYTES + 1)) is None
    assert decoded_or_none(frame + b"\xff") is None


@given(message=opens(), num_bytes=st.integers(1, 40))
def test_a_set_of_depths_is_whole_and_holds_some(message: Open, num_bytes: int) -> None:  # W38
    bare = encode(dataclasses.replace(message, taps=0))
    assert decoded_or_none(bare + bytes(num_bytes)) is None
    some = decoded_or_none(bare + b"\x04" + bytes(num_bytes - 1))
    assert some == (dataclasses.replace(message, taps=4) if num_bytes == 16 else None)


def broken_messages() -> st.SearchStrategy[Message]:
    """Messages with one value that W5 forbids."""
    no_time = st.sampled_from([float("nan"), float("inf"), -1.0])
    return st.one_of(
        _with(hellos(), min_version=st.just(0)),
        _with(hellos(), fingerprint=st.binary(max_size=31)),
        _with(hellos(), hidden_size=st.just(0)),
        _with(welcomes, max_frame_tokens=st.just(0)),
        _with(welcomes, session_ttl_s=no_time),
        _with(opens(), session=st.just(SessionId(0))),
        _with(opens(), key=st.binary(max_size=15)),
        _with(opens(), max_tokens=st.just(0)),
        opens().map(lambda o: dataclasses.replace(o, fork_of=o.session)),
        opens().map(lambda o: dataclasses.replace(o, fork_of=SessionId(0), fork_tokens=1)),
        opens().map(lambda o: dataclasses.replace(o, fork_tokens=o.max_tokens + 1)),
        _with(opens(), taps=st.sampled_from([-1, 1 << 128, 0b11111])),
        _with(states(), codec=st.just(Codec.TAPPED)),
        _with(states(), num_rows=st.just(0)),
        _with(states(), position=st.just(2**32 - 1)),
        states([Codec.RAW]).map(lambda s: dataclasses.replace(s, payload=bytes(s.payload) + b"\0")),
        _with(replies(), num_rows=st.just(0), codec=st.sampled_from(CODED)),
        states().map(lambda s: dataclasses.replace(s, payload=b"")),
        _with(replies(), queue_s=no_time),
        _with(replies(), session=st.just(SessionId(0))),
        _with(faults, retry_after_s=no_time),
        _with(faults, message=st.just("x" * (MAX_FAULT_MESSAGE_BYTES + 1))),
        _with(faults, session=st.just(SessionId(-1))),
        _with(faults, message=st.just("\ud800")),
    )


def _with(
    strategy: st.SearchStrategy[Message], **changes: st.SearchStrategy[object]
) -> st.SearchStrategy[Message]:
    return st.builds(
        lambda message, values: dataclasses.replace(message, **values),
        strategy,
        st.fixed_dictionaries(changes),
    )


@settings(max_examples=at_most(200))
@given(message=broken_messages())
def test_a_message_with_a_forbidden_value_is_never_sent(message: Message) -> None:  # W5
    with pytest.raises(LocalProtocolError):
        encode(message)


@given(message=messages)
def test_each_message_has_one_sender(message: Message) -> None:  # W2
    is_device = type(message).__name__ in {
        "Hello",
        "Open",
        "States",
        "Close",
        "Join",
        "Piece",
        "Trace",
    }
    assert side_of(message) is (MessageSide.DEVICE if is_device else MessageSide.CLOUD)


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (b"\x01", "expected an extension's 5 bytes, got 1"),
        (b"\x01\x00\x00\x00\x00", "expected 1 to 0 bytes of extension 1, got 0"),
        (b"\x01\xff\xff\xff\xffab", "expected 1 to 2 bytes of extension 1, got 4294967295"),
        (b"\x03\x01\x00\x00\x00a", "expected ascending extensions of .*, got kind 3"),
        (b"\x01\x01\x00\x00\x00a" * 2, "expected ascending extensions of .*, got kind 1"),
        (b"\x02\x01\x00\x00\x00a", "expected a lane key of 16 bytes, got 1"),
    ],
)
def test_a_welcome_with_broken_extensions_is_refused(tail: bytes, reason: str) -> None:  # W39
    welcome = encode(Welcome(1, Dtype.BF16, 0b1, 100, 8, 16, 30.0))
    with pytest.raises(RemoteProtocolError, match=reason):
        decode(welcome + tail)


def test_extensions_longer_than_allowed_are_refused() -> None:  # W4, W39
    tables = bytes(MAX_EXTENSION_BYTES + 1)
    with pytest.raises(LocalProtocolError, match="expected tables of at most 262144 bytes"):
        encode(Welcome(1, Dtype.BF16, 0b1, 100, 8, 16, 30.0, tables))

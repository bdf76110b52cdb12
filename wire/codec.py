"""Messages to binary frames and back (docs/wire-protocol.md, rules W1 to W6).

A frame is a fixed little-endian header, whose first byte names the message, and what is left of
the frame: the payload of States and Reply, the credential of Hello, the text of Fault.
"""

from collections.abc import Callable
from enum import Enum, IntEnum
from struct import Struct
from struct import error as StructError
from typing import Any, Final, NoReturn

from wire.errors import FaultCode, LocalProtocolError, RemoteProtocolError
from wire.extensions import decode_extensions, encode_extensions
from wire.fields import broken_rule
from wire.limits import TAPS_BYTES
from wire.messages import (
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
    Trace,
    Want,
    Welcome,
)

Frame = bytes | bytearray | memoryview


class MessageType(IntEnum):
    """The first byte of a frame."""

    HELLO = 1
    WELCOME = 2
    OPEN = 3
    OPENED = 4
    STATES = 5
    REPLY = 6
    CLOSE = 7
    CREDIT = 8
    FAULT = 9
    JOIN = 10
    PIECE = 11
    JOINED = 12
    TRACE = 13


class MessageSide(Enum):
    """Which side sends a message."""

    DEVICE = "device"
    CLOUD = "cloud"


HELLO: Final = Struct("<BHH32sIIIHH")
WELCOME: Final = Struct("<BHBHIIQd")
OPEN: Final = Struct("<BI16sIII")
OPENED: Final = Struct("<BII")
STATES: Final = Struct("<BIIIIBBB")
REPLY: Final = Struct("<BIIIIBBIddIB")
CLOSE: Final = Struct("<BI")
CREDIT: Final = Struct("<BQ")
FAULT: Final = Struct("<BHId")
JOIN: Final = Struct("<BH16s")
PIECE: Final = Struct("<BIII")
JOINED: Final = Struct("<B")
TRACE: Final = Struct("<BI16s")

_RESERVED_CODEC: Final = 1


def side_of(message: Message) -> MessageSide:
    """The only side that may send this message (rule W2)."""
    if isinstance(message, Hello | Open | States | Close | Join | Piece | Trace):
        return MessageSide.DEVICE
    return MessageSide.CLOUD


def encode(message: Message) -> bytes:
    """One binary frame; the payload is copied once. Bytes-like fields have an item size of 1.

    Raises:
        LocalProtocolError: BAD_FRAME when a field has a value that the protocol does not allow.
    """
    reason = broken_rule(message)
    if reason is not None:
        raise LocalProtocolError(FaultCode.BAD_FRAME, f"{type(message).__name__}: {reason}")
    try:
        return _encode(message)
    except (StructError, UnicodeEncodeError) as error:
        reason = f"{type(message).__name__} does not fit its frame: {error}"
        raise LocalProtocolError(FaultCode.BAD_FRAME, reason) from error


def decode(frame: Frame) -> Message:
    """The message of a frame. A payload is a view into it, so the frame must stay unchanged.

    Raises:
        RemoteProtocolError: BAD_FRAME for every byte string that is not a message.
    """
    view = memoryview(frame)
    if not view:
        _refuse("expected at least 1 byte, got 0")
    if view[0] not in _DECODERS:
        _refuse(f"expected a message type of 1 to 13, got {view[0]}")
    header, has_tail, build = _DECODERS[view[0]]
    if len(view) < header.size or (len(view) > header.size and not has_tail):
        least = "at least " if has_tail else ""
        name = MessageType(view[0]).name
        _refuse(f"expected {least}{header.size} bytes of {name}, got {len(view)}")
    try:
        message = build(header.unpack_from(view)[1:], view[header.size :])
    except ValueError as error:
        reason = f"{MessageType(view[0]).name}: {error}"
        raise RemoteProtocolError(FaultCode.BAD_FRAME, reason) from error
    broken = broken_rule(message)
    if broken is not None:
        _refuse(f"{type(message).__name__}: {broken}")
    return message


def _encode(message: Message) -> bytes:
    match message:
        case Hello() as m:
            return _hello_header(m) + m.credential
        case Welcome() as m:
            return _welcome_header(m) + encode_extensions(m.tables, m.lane_key)
        case Open() as m:
            header = OPEN.pack(
                MessageType.OPEN, m.session, m.key, m.max_tokens, m.fork_of, m.fork_tokens
            )
            return header + (m.taps.to_bytes(TAPS_BYTES, "little") if m.taps else b"")
        case States() as m:
            return b"".join((_states_header(m), m.payload))
        case Reply() as m:
            return b"".join((_reply_header(m), m.payload))
        case Opened() | Close() | Credit() | Joined() | Trace():
            return _encode_short(message)
        case Fault() as m:
            header = FAULT.pack(MessageType.FAULT, m.code, m.session, m.retry_after_s)
            return header + m.message.encode()
        case Join() as m:
            return JOIN.pack(MessageType.JOIN, m.version, m.lane_key) + m.credential
        case Piece() as m:
            header = PIECE.pack(MessageType.PIECE, m.sequence, m.length, m.offset)
            return b"".join((header, m.part))


def _encode_short(message: Opened | Close | Credit | Joined | Trace) -> bytes:
    """The messages that are a header alone."""
    match message:
        case Opened() as m:
            return OPENED.pack(MessageType.OPENED, m.session, m.cached_tokens)
        case Close() as m:
            return CLOSE.pack(MessageType.CLOSE, m.session)
        case Credit() as m:
            return CREDIT.pack(MessageType.CREDIT, m.limit_tokens)
        case Joined():
            return JOINED.pack(MessageType.JOINED)
        case Trace() as m:
            return TRACE.pack(MessageType.TRACE, m.session, m.trace_id)


def _hello_header(hello: Hello) -> bytes:
    return HELLO.pack(
        MessageType.HELLO,
        hello.min_version,
        hello.max_version,
        hello.fingerprint,
        hello.first_layer,
        hello.num_layers,
        hello.hidden_size,
        hello.dtypes,
        hello.codecs,
    )


def _welcome_header(welcome: Welcome) -> bytes:
    return WELCOME.pack(
        MessageType.WELCOME,
        welcome.version,
        welcome.dtype,
        welcome.codecs,
        welcome.max_context_tokens,
        welcome.max_frame_tokens,
        welcome.credit_limit_tokens,
        welcome.session_ttl_s,
    )


def _states_header(states: States) -> bytes:
    return STATES.pack(
        MessageType.STATES,
        states.session,
        states.epoch,
        states.position,
        states.num_rows,
        states.dtype,
        states.codec,
        states.want,
    )


def _reply_header(reply: Reply) -> bytes:
    return REPLY.pack(
        MessageType.REPLY,
        reply.session,
        reply.epoch,
        reply.position,
        reply.num_rows,
        reply.dtype,
        reply.codec,
        reply.cached_tokens,
        reply.queue_s,
        reply.compute_s,
        reply.batch_tokens,
        0,
    )


def _hello(header: tuple[Any, ...], tail: memoryview) -> Hello:
    low, high, fingerprint, first_layer, num_layers, hidden_size, dtypes, codecs = header
    return Hello(
        min_version=low,
        max_version=high,
        fingerprint=fingerprint,
        first_layer=first_layer,
        num_layers=num_layers,
        hidden_size=hidden_size,
        dtypes=dtypes,
        codecs=codecs,
        credential=bytes(tail),
    )


def _welcome(header: tuple[Any, ...], tail: memoryview) -> Welcome:
    version, dtype, codecs, context_tokens, frame_tokens, credit_tokens, ttl_s = header
    tables, lane_key = decode_extensions(tail)
    return Welcome(
        version=version,
        dtype=Dtype(dtype),
        codecs=codecs,
        max_context_tokens=context_tokens,
        max_frame_tokens=frame_tokens,
        credit_limit_tokens=credit_tokens,
        session_ttl_s=ttl_s,
        tables=tables,
        lane_key=lane_key,
    )


def _open(header: tuple[Any, ...], tail: memoryview) -> Open:
    taps = int.from_bytes(tail, "little")
    if len(tail) != (TAPS_BYTES if taps else 0):
        reason = f"expected no taps or a set of {TAPS_BYTES} bytes with some, got {len(tail)} bytes"
        raise ValueError(reason)
    session, key, max_tokens, fork_of, fork_tokens = header
    return Open(session, key, max_tokens, fork_of, fork_tokens, taps)


def _opened(header: tuple[Any, ...], tail: memoryview) -> Opened:
    return Opened(*header)


def _codec(number: int) -> Codec:
    if number == _RESERVED_CODEC:
        raise ValueError(f"expected codec {Codec.RAW:d}, got {number}, which is reserved")
    return Codec(number)


def _states(header: tuple[Any, ...], tail: memoryview) -> States:
    session, epoch, position, num_rows, dtype, codec, want = header
    return States(session, epoch, position, num_rows, Dtype(dtype), _codec(codec), Want(want), tail)


def _reply(header: tuple[Any, ...], tail: memoryview) -> Reply:
    session, epoch, position, num_rows, dtype, codec = header[:6]
    cached_tokens, queue_s, compute_s, batch_tokens, reserved = header[6:]
    if reserved:
        raise ValueError(f"expected a reserved byte of 0, got {reserved}")
    return Reply(
        session=session,
        epoch=epoch,
        position=position,
        num_rows=num_rows,
        dtype=Dtype(dtype),
        codec=_codec(codec),
        cached_tokens=cached_tokens,
        queue_s=queue_s,
        compute_s=compute_s,
        batch_tokens=batch_tokens,
        payload=tail,
    )


def _close(header: tuple[Any, ...], tail: memoryview) -> Close:
    return Close(*header)


def _credit(header: tuple[Any, ...], tail: memoryview) -> Credit:
    return Credit(*header)


def _fault(header: tuple[Any, ...], tail: memoryview) -> Fault:
    code, session, retry_after_s = header
    return Fault(FaultCode(code), SessionId(session), retry_after_s, str(tail, "utf-8"))


def _join(header: tuple[Any, ...], tail: memoryview) -> Join:
    version, lane_key = header
    return Join(version, lane_key, bytes(tail))


def _joined(header: tuple[Any, ...], tail: memoryview) -> Joined:
    return Joined()


def _trace(header: tuple[Any, ...], tail: memoryview) -> Trace:
    return Trace(*header)


def _piece(header: tuple[Any, ...], tail: memoryview) -> Piece:
    sequence, length, offset = header
    return Piece(sequence, length, offset, tail)


def _refuse(reason: str) -> NoReturn:
    raise RemoteProtocolError(FaultCode.BAD_FRAME, reason)


_Builder = Callable[[tuple[Any, ...], memoryview], Message]

# The header of each message, whether something may follow it, and what builds the message. A
# builder raises ValueError (UnicodeDecodeError is one) for enums, text and reserved bytes.
_DECODERS: Final[dict[int, tuple[Struct, bool, _Builder]]] = {
    MessageType.HELLO: (HELLO, True, _hello),
    MessageType.WELCOME: (WELCOME, True, _welcome),
    MessageType.OPEN: (OPEN, True, _open),
    MessageType.OPENED: (OPENED, False, _opened),
    MessageType.STATES: (STATES, True, _states),
    MessageType.REPLY: (REPLY, True, _reply),
    MessageType.CLOSE: (CLOSE, False, _close),
    MessageType.CREDIT: (CREDIT, False, _credit),
    MessageType.FAULT: (FAULT, True, _fault),
    MessageType.JOIN: (JOIN, True, _join),
    MessageType.PIECE: (PIECE, True, _piece),
    MessageType.JOINED: (JOINED, False, _joined),
    MessageType.TRACE: (TRACE, False, _trace),
}

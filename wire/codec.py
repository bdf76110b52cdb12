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
from wire.fields import broken_rule
from wire.messages import (
    Close,
    Codec,
    Credit,
    Dtype,
    Fault,
    Hello,
    Message,
    Open,
    Opened,
    Reply,
    SessionId,
    States,
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

_RESERVED_CODEC: Final = 1


def side_of(message: Message) -> MessageSide:
    """The only side that may send this message (rule W2)."""
    if isinstance(message, Hello | Open | States | Close):
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
        _refuse(f"expected a message type of 1 to 9, got {view[0]}")
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
            versions = (m.min_version, m.max_version)
            shape = (m.first_layer, m.num_layers, m.hidden_size)
            header = HELLO.pack(
                MessageType.HELLO, *versions, m.fingerprint, *shape, m.dtypes, m.codecs
            )
            return header + m.credential
        case Welcome() as m:
            limits = (m.max_context_tokens, m.max_frame_tokens, m.credit_limit_tokens)
            kinds = (m.version, m.dtype, m.codecs)
            return WELCOME.pack(MessageType.WELCOME, *kinds, *limits, m.session_ttl_s)
        case Open() as m:
            fork = (m.fork_of, m.fork_tokens)
            return OPEN.pack(MessageType.OPEN, m.session, m.key, m.max_tokens, *fork)
        case Opened() as m:
            return OPENED.pack(MessageType.OPENED, m.session, m.cached_tokens)
        case States() as m:
            place = (m.session, m.epoch, m.position, m.num_rows)
            header = STATES.pack(MessageType.STATES, *place, m.dtype, m.codec, m.want)
            return b"".join((header, m.payload))
        case Reply() as m:
            place = (m.session, m.epoch, m.position, m.num_rows)
            measured = (m.cached_tokens, m.queue_s, m.compute_s, m.batch_tokens)
            header = REPLY.pack(MessageType.REPLY, *place, m.dtype, m.codec, *measured, 0)
            return b"".join((header, m.payload))
        case Close() as m:
            return CLOSE.pack(MessageType.CLOSE, m.session)
        case Credit() as m:
            return CREDIT.pack(MessageType.CREDIT, m.limit_tokens)
        case Fault() as m:
            header = FAULT.pack(MessageType.FAULT, m.code, m.session, m.retry_after_s)
            return header + m.message.encode()


def _hello(header: tuple[Any, ...], tail: memoryview) -> Hello:
    low, high, fingerprint, first_layer, num_layers, hidden_size, dtypes, codecs = header
    shape = (first_layer, num_layers, hidden_size)
    return Hello(low, high, fingerprint, *shape, dtypes, codecs, bytes(tail))


def _welcome(header: tuple[Any, ...], tail: memoryview) -> Welcome:
    version, dtype, *rest = header
    return Welcome(version, Dtype(dtype), *rest)


def _open(header: tuple[Any, ...], tail: memoryview) -> Open:
    return Open(*header)


def _opened(header: tuple[Any, ...], tail: memoryview) -> Opened:
    return Opened(*header)


def _codec(number: int) -> Codec:
    if number == _RESERVED_CODEC:
        raise ValueError(f"expected codec {Codec.RAW:d}, got {number}, which is reserved")
    return Codec(number)


def _states(header: tuple[Any, ...], tail: memoryview) -> States:
    session, epoch, position, num_rows, dtype, codec, want = header
    kinds = (Dtype(dtype), _codec(codec), Want(want))
    return States(session, epoch, position, num_rows, *kinds, tail)


def _reply(header: tuple[Any, ...], tail: memoryview) -> Reply:
    *place, dtype, codec, cached_tokens, queue_s, compute_s, batch_tokens, reserved = header
    if reserved:
        raise ValueError(f"expected a reserved byte of 0, got {reserved}")
    kinds = (Dtype(dtype), _codec(codec))
    session, epoch, position, num_rows = place
    measured = (cached_tokens, queue_s, compute_s, batch_tokens)
    return Reply(session, epoch, position, num_rows, *kinds, *measured, tail)


def _close(header: tuple[Any, ...], tail: memoryview) -> Close:
    return Close(*header)


def _credit(header: tuple[Any, ...], tail: memoryview) -> Credit:
    return Credit(*header)


def _fault(header: tuple[Any, ...], tail: memoryview) -> Fault:
    code, session, retry_after_s = header
    return Fault(FaultCode(code), SessionId(session), retry_after_s, str(tail, "utf-8"))


def _refuse(reason: str) -> NoReturn:
    raise RemoteProtocolError(FaultCode.BAD_FRAME, reason)


_Builder = Callable[[tuple[Any, ...], memoryview], Message]

# The header of each message, whether something may follow it, and what builds the message. A
# builder raises ValueError (UnicodeDecodeError is one) for enums, text and reserved bytes.
_DECODERS: Final[dict[int, tuple[Struct, bool, _Builder]]] = {
    MessageType.HELLO: (HELLO, True, _hello),
    MessageType.WELCOME: (WELCOME, False, _welcome),
    MessageType.OPEN: (OPEN, False, _open),
    MessageType.OPENED: (OPENED, False, _opened),
    MessageType.STATES: (STATES, True, _states),
    MessageType.REPLY: (REPLY, True, _reply),
    MessageType.CLOSE: (CLOSE, False, _close),
    MessageType.CREDIT: (CREDIT, False, _credit),
    MessageType.FAULT: (FAULT, True, _fault),
}

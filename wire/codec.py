"""Messages to binary frames and back (docs/wire-protocol.md, rules W1 to W6).

A frame is a fixed little-endian header, whose first byte names the message, and what is left of
the frame: the payload of States and Reply, the credential of Hello, the text of Fault.
"""

import math
from collections.abc import Callable
from enum import Enum, IntEnum
from struct import Struct
from typing import Final, TypeVar

from wire.errors import FaultCode, RemoteProtocolError
from wire.limits import (
    FINGERPRINT_BYTES,
    ITEM_BYTES,
    KEY_BYTES,
    MAX_CREDENTIAL_BYTES,
    MAX_FAULT_MESSAGE_BYTES,
)
from wire.messages import (
    NO_SESSION,
    Close,
    Codec,
    Credit,
    Dtype,
    Fault,
    Hello,
    Message,
    Open,
    Opened,
    Payload,
    Reply,
    SessionId,
    States,
    Want,
    Welcome,
)

Frame = bytes | bytearray | memoryview

_HELLO: Final = Struct("<BHH32sIIIHH")
_WELCOME: Final = Struct("<BHBHIIQd")
_OPEN: Final = Struct("<BI16sIII")
_OPENED: Final = Struct("<BII")
_STATES: Final = Struct("<BIIIIBBB")
_REPLY: Final = Struct("<BIIIIBBIddI")
_CLOSE: Final = Struct("<BI")
_CREDIT: Final = Struct("<BQ")
_FAULT: Final = Struct("<BHId")


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


def side_of(message: Message) -> MessageSide:
    """The only side that may send this message."""
    if isinstance(message, Hello | Open | States | Close):
        return MessageSide.DEVICE
    return MessageSide.CLOUD


def encode(message: Message) -> bytes:
    """One binary frame. The payload is copied once.

    Raises:
        ValueError: a field does not fit its place; a bug of this side.
    """
    try:
        return _encode(message)
    except StructError as error:
        raise ValueError(f"{type(message).__name__} does not fit its frame: {error}") from error


def decode(frame: Frame) -> Message:
    """The message of a frame; `payload` is a view into it, so the frame must stay unchanged.

    Raises:
        RemoteProtocolError: BAD_FRAME for every byte string that is not a message.
    """
    view = memoryview(frame)
    if not view:
        raise _bad("expected a frame of at least 1 byte, got 0")
    decoder = _DECODERS.get(view[0])
    if decoder is None:
        raise _bad(f"expected a message type of 1 to 9, got {view[0]}")
    return decoder(view)

"""How many bytes a message takes: as the protocol counts it, and on the wire."""

from wire.codec import CLOSE, CREDIT, FAULT, OPEN, OPENED, REPLY, STATES
from wire.messages import Close, Credit, Fault, Message, Open, Opened, Reply, States

MSS_BYTES = 1448
"""Of a TCP segment with time stamps on a path for 1500 bytes."""

PACKET_OVERHEAD_BYTES = 66
"""Ethernet, IPv4 and TCP with time stamps: 14 + 20 + 32."""

_MASK_BYTES = 4


def frame_bytes(message: Message, row_bytes: int) -> int:
    """The length of a message's frame if a row took `row_bytes`, whatever its payload has here.

    Raises:
        ValueError: a message of the handshake, which is not simulated.
    """
    match message:
        case States():
            return STATES.size + message.num_rows * row_bytes
        case Reply():
            return REPLY.size + message.num_rows * row_bytes
        case Open():
            return OPEN.size
        case Opened():
            return OPENED.size
        case Close():
            return CLOSE.size
        case Credit():
            return CREDIT.size
        case Fault():
            return FAULT.size + len(message.message.encode())
        case _:
            raise ValueError(f"expected no message of the handshake, got {type(message).__name__}")


def websocket_bytes(num_bytes: int, is_masked: bool) -> int:
    """A frame with its WebSocket header (RFC 6455, section 5.2); devices mask, clouds do not."""
    header = 2 if num_bytes < 126 else 4 if num_bytes < 65_536 else 10
    return num_bytes + header + (_MASK_BYTES if is_masked else 0)


def num_packets(num_bytes: int) -> int:
    """TCP segments of so many bytes that are sent at once."""
    return -(-num_bytes // MSS_BYTES)


def wire_bytes(num_bytes: int) -> int:
    """With the headers of every segment; acknowledgements are not counted."""
    return num_bytes + num_packets(num_bytes) * PACKET_OVERHEAD_BYTES

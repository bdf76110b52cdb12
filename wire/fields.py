"""Which values the fields of a message may take, on their own (docs/wire-protocol.md, rule W5)."""

import math

from wire.extensions import broken_extension
from wire.limits import (
    FINGERPRINT_BYTES,
    ITEM_BYTES,
    KEY_BYTES,
    MAX_CREDENTIAL_BYTES,
    MAX_FAULT_MESSAGE_BYTES,
    MAX_PIECE_BYTES,
    MAX_TAPS,
    MIN_PIECE_BYTES,
    TAPS_BYTES,
    TRACE_BYTES,
)
from wire.messages import (
    NO_SESSION,
    Close,
    Codec,
    Credit,
    Fault,
    Hello,
    Join,
    Joined,
    Message,
    Open,
    Opened,
    Piece,
    Reply,
    States,
    Trace,
    Welcome,
)

MAX_POSITION = 2**32 - 1
"""No row lies at or beyond this position."""


def broken_rule(message: Message) -> str | None:
    """What is wrong with the message's own values: expected and got; None when nothing is."""
    match message:
        case Hello():
            return _hello(message)
        case Welcome():
            return _welcome(message)
        case Open():
            return _open(message)
        case States():
            return _states(message)
        case Reply():
            return _reply(message)
        case Fault():
            return _fault(message)
        case Opened() | Close() | Trace():
            return _named_session(message.session) or _trace(message)
        case Join() | Piece():
            return _join(message) if isinstance(message, Join) else _piece(message)
        case Credit() | Joined():
            return None


def _hello(hello: Hello) -> str | None:
    if not 1 <= hello.min_version <= hello.max_version:
        return f"expected versions 1 <= min <= max, got {hello.min_version}, {hello.max_version}"
    if len(hello.fingerprint) != FINGERPRINT_BYTES:
        return f"expected a fingerprint of {FINGERPRINT_BYTES} bytes, got {len(hello.fingerprint)}"
    if hello.hidden_size < 1:
        return "expected a hidden size of at least 1, got 0"
    return _credential(hello.credential)


def _credential(credential: bytes) -> str | None:
    if len(credential) > MAX_CREDENTIAL_BYTES:
        got = len(credential)
        return f"expected a credential of at most {MAX_CREDENTIAL_BYTES} bytes, got {got}"
    return None


def _join(join: Join) -> str | None:
    if join.version < 1:
        return "expected a version of at least 1, got 0"
    if len(join.lane_key) != KEY_BYTES:
        return f"expected a lane key of {KEY_BYTES} bytes, got {len(join.lane_key)}"
    return _credential(join.credential)


def _piece(piece: Piece) -> str | None:
    num_bytes, end = len(piece.part), piece.offset + len(piece.part)
    if not 1 <= num_bytes <= MAX_PIECE_BYTES:
        return f"expected a part of 1 to {MAX_PIECE_BYTES} bytes, got {num_bytes}"
    if end > piece.length:
        return f"expected a part within {piece.length} bytes, got one that ends at {end}"
    if num_bytes < MIN_PIECE_BYTES and end < piece.length:
        return f"expected a part of at least {MIN_PIECE_BYTES} bytes, got {num_bytes}"
    return None


def _trace(message: Opened | Close | Trace) -> str | None:
    if not isinstance(message, Trace):
        return None
    if len(message.trace_id) == TRACE_BYTES and any(message.trace_id):
        return None
    return f"expected a trace id of {TRACE_BYTES} bytes, not all 0, got {len(message.trace_id)}"


def _welcome(welcome: Welcome) -> str | None:
    if min(welcome.version, welcome.max_context_tokens, welcome.max_frame_tokens) < 1:
        return "expected version, context and frame limits of at least 1"
    return broken_extension(welcome.tables, welcome.lane_key) or _duration(
        "session_ttl_s", welcome.session_ttl_s
    )


def _open(message: Open) -> str | None:
    if message.session == NO_SESSION:
        return _named_session(message.session)
    if len(message.key) != KEY_BYTES:
        return f"expected a key of {KEY_BYTES} bytes, got {len(message.key)}"
    if message.max_tokens < 1:
        return "expected max_tokens of at least 1, got 0"
    if message.fork_of == message.session:
        return f"expected a fork of another session, got {message.fork_of} of itself"
    if message.fork_of == NO_SESSION and message.fork_tokens:
        return f"expected no fork_tokens without fork_of, got {message.fork_tokens}"
    if message.fork_tokens > message.max_tokens:
        return f"expected fork_tokens <= {message.max_tokens}, got {message.fork_tokens}"
    if not 0 <= message.taps < 1 << 8 * TAPS_BYTES:
        return f"expected taps at depths below {8 * TAPS_BYTES}"
    if message.taps.bit_count() > MAX_TAPS:
        return f"expected at most {MAX_TAPS} taps, got {message.taps.bit_count()}"
    return None


def _states(states: States) -> str | None:
    if states.num_rows < 1:
        return "expected at least 1 row, got 0"
    if states.codec is Codec.TAPPED:
        return f"expected another codec of States, got {states.codec.name}"
    return _named_session(states.session) or _rows(states)


def _reply(reply: Reply) -> str | None:
    return (
        _named_session(reply.session)
        or _duration("queue_s", reply.queue_s)
        or _duration("compute_s", reply.compute_s)
        or _rows(reply)
    )


def _fault(fault: Fault) -> str | None:
    num_bytes = len(fault.message.encode("utf-8", "surrogatepass"))
    if num_bytes > MAX_FAULT_MESSAGE_BYTES:
        return f"expected a message of at most {MAX_FAULT_MESSAGE_BYTES} bytes, got {num_bytes}"
    return _duration("retry_after_s", fault.retry_after_s)


def _rows(frame: States | Reply) -> str | None:
    if frame.position + frame.num_rows > MAX_POSITION:
        return f"expected rows before position {MAX_POSITION}, got {frame.num_rows} rows there"
    num_bytes, least = len(frame.payload), frame.num_rows * ITEM_BYTES[frame.dtype]
    if frame.codec not in (Codec.RAW, Codec.TAPPED):
        # How long they are at the most, only the connection's shape of rows tells.
        return None if num_bytes and least else f"expected {frame.codec.name} rows, got none"
    if num_bytes < least or (num_bytes % least if least else num_bytes):
        return f"expected {frame.num_rows} whole {frame.dtype.name} rows, got {num_bytes} bytes"
    return None


def _named_session(session: int) -> str | None:
    return None if session != NO_SESSION else "expected a session of at least 1, got 0"


def _duration(name: str, seconds: float) -> str | None:
    if math.isfinite(seconds) and seconds >= 0:
        return None
    return f"expected {name} to be finite and at least 0, got {seconds}"

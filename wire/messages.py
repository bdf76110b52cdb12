"""The messages of the protocol, as values.

One WebSocket per device carries many sessions; each message is one binary frame. Only hidden
states travel: no message has a field that can hold token ids or text of the user.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NewType

from wire.errors import FaultCode

SessionId = NewType("SessionId", int)
"""A session's handle, chosen by the device, unique on its connection, 1 .. 2**32 - 1."""

NO_SESSION = SessionId(0)

Payload = bytes | bytearray | memoryview
"""Packed rows, C-contiguous."""


class Dtype(IntEnum):
    """The number format of hidden states on the wire."""

    FP32 = 0
    FP16 = 1
    BF16 = 2


class Codec(IntEnum):
    """How rows are packed into a payload. RAW is exact for the frame's dtype.

    TAPPED is RAW as well, and of Replies alone: behind each deep row stand the rows of the same
    position at the depths that the session's Open asked for. EXACT gives RAW's bits again from
    fewer bytes, PADDED from a number of bytes that does not depend on them, INT8 and INT6 give
    numbers that are only near (`wire.coding`). 1 is
    reserved: it was that of rows that branch, and no other codec gets the number.
    """

    RAW = 0
    TAPPED = 2
    EXACT = 3
    INT8 = 4
    INT6 = 5
    PADDED = 6


class Ability(IntEnum):
    """What is no codec and has a bit in `codecs` all the same (rule W39)."""

    LANES = 8
    """Further sockets of a device carry pieces of messages (rule W44)."""
    INT8_REPLIES = 9
    INT6_REPLIES = 10
    """Replies are in this lossy codec (rule W43)."""
    MIDDLE = 11
    """A Hello's fingerprint is that of the middle layers alone (rule W12)."""
    QUOTAS = 12
    """Faults may have the code QUOTA (rule W51)."""
    TRACES = 13
    """A device may say which request a session's work is for (rule W52)."""


class Want(IntEnum):
    """Which rows of a States frame the device wants back."""

    NONE = 0
    LAST = 1
    ALL = 2

    def num_rows(self, num_sent: int) -> int:
        """How many deep rows answer a frame of `num_sent` rows, at least one."""
        match self:
            case Want.NONE:
                return 0
            case Want.LAST:
                return 1
            case Want.ALL:
                return num_sent


@dataclass(frozen=True, slots=True)
class Hello:
    """Device to cloud, first frame: what the device speaks and which model it holds.

    `fingerprint` is 32 bytes over the middle layers with the bit of `Ability.MIDDLE`, and over the
    whole model without; `first_layer` and `num_layers` are the middle
    layers the device expects, as a half-open range of the whole model. `dtypes` and `codecs` are
    bit sets (bit n = enum value n). `credential` is the shared secret or a token, empty when there
    is none.
    """

    min_version: int
    max_version: int
    fingerprint: bytes
    first_layer: int
    num_layers: int
    hidden_size: int
    dtypes: int
    codecs: int
    credential: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Welcome:
    """Cloud to device: the chosen version and the limits of this connection.

    `dtype` is the engine's, so rows in it are exact. `credit_limit_tokens` is the number of rows
    the device may send on this connection until a Credit raises it. `tables` and `lane_key` are
    extensions, empty unless both sides offered what they belong to.
    """

    version: int
    dtype: Dtype
    codecs: int
    max_context_tokens: int
    max_frame_tokens: int
    credit_limit_tokens: int
    session_ttl_s: float
    tables: bytes = b""
    lane_key: bytes = b""


@dataclass(frozen=True, slots=True)
class Open:
    """Device to cloud: make a session, or take one up again after a lost socket.

    `key` is 16 random bytes that name the session across sockets. `max_tokens` is the most KV
    positions the session will ever hold; admission is decided by it. With `fork_of` set, the new
    session begins as a copy of the first `fork_tokens` positions of that session. `taps` is a bit
    set: with bit d each deep row of this session's Replies is followed by the row of its position
    that d of the model's layers have made.
    """

    session: SessionId
    key: bytes
    max_tokens: int
    fork_of: SessionId = NO_SESSION
    fork_tokens: int = 0
    taps: int = 0


@dataclass(frozen=True, slots=True)
class Opened:
    """Cloud to device: the session exists and holds this many cached positions."""

    session: SessionId
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class States:
    """Device to cloud: shallow hidden states of positions `[position, position + num_rows)`.

    A position below the cached length is the truncation. A higher epoch than before makes the
    cloud drop the session's queued work of older epochs; a lower one is itself dropped.
    """

    session: SessionId
    epoch: int
    position: int
    num_rows: int
    dtype: Dtype
    codec: Codec
    want: Want
    payload: Payload


@dataclass(frozen=True, slots=True)
class Reply:
    """Cloud to device: the answer to exactly one States frame, named by (epoch, position).

    `num_rows` deep hidden states come back: none, the last, or all, each with its taps where
    the session has some. `cached_tokens` is the
    session's length now. `queue_s` is the time from arrival to the first step, `compute_s` the
    engine time of the steps it took part in, `batch_tokens` the rows of the last such step that are
    this connection's own.
    """

    session: SessionId
    epoch: int
    position: int
    num_rows: int
    dtype: Dtype
    codec: Codec
    cached_tokens: int
    queue_s: float
    compute_s: float
    batch_tokens: int
    payload: Payload


@dataclass(frozen=True, slots=True)
class Close:
    """Device to cloud: the session is over; its KV is free. Unknown sessions are ignored."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class Credit:
    """Cloud to device: the total number of rows the device may have sent on this connection."""

    limit_tokens: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Cloud to device: a refusal. `session` is NO_SESSION when the whole connection is meant.

    After a connection fault the cloud closes the socket. After a session fault the session is
    gone in the cloud. `retry_after_s` of 0 means: do not retry as it is.
    """

    code: FaultCode
    session: SessionId
    retry_after_s: float
    message: str


@dataclass(frozen=True, slots=True)
class Join:
    """Device to cloud, first frame of a further socket: it is a lane of the connection of this key.

    `version` is the connection's, `lane_key` that of its Welcome, and `credential` as in Hello.
    """

    version: int
    lane_key: bytes
    credential: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Joined:
    """Cloud to device: the socket is a lane now."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Device to cloud, over a lane: a part of a frame of States.

    `sequence` counts the frames that are sent in pieces, from 0 on each connection. The frame is
    `length` bytes long, and `part` is what begins at `offset`.
    """

    sequence: int
    length: int
    offset: int
    part: Payload


@dataclass(frozen=True, slots=True)
class Trace:
    """Device to cloud: what comes in a session from here on is for the request of this id.

    `trace_id` is 16 bytes, not all zero, for the logs of both sides and for nothing else.
    """

    session: SessionId
    trace_id: bytes


Message = (
    Hello
    | Welcome
    | Open
    | Opened
    | States
    | Reply
    | Close
    | Credit
    | Fault
    | Join
    | Joined
    | Piece
    | Trace
)

"""What the cloud's core asks of its shells: messages to send, and steps for the engine thread."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, NewType

from wire.errors import FaultCode
from wire.messages import Codec, Message, Payload, SessionId, Want

ConnectionId = NewType("ConnectionId", int)
"""A socket's number, chosen by the shell and never used again."""

Identity = NewType("Identity", str)
"""Whose a socket is: what limits and fairness count by. The shell says it; the core compares it."""

SequenceHandle = NewType("SequenceHandle", int)
"""The core's name of an engine sequence; the engine thread maps it to the engine's own id."""


class Owner(NamedTuple):
    """Whose rows wait: a connection and the identity behind it."""

    identity: Identity
    connection: ConnectionId


@dataclass(frozen=True, slots=True)
class Send:
    """Write one message to a socket, after those asked for before. Dropped if it is gone."""

    connection: ConnectionId
    message: Message
    codec: Codec = Codec.RAW
    """What a Reply's rows are to be coded in, where that makes them shorter."""
    trace_id: bytes = b""
    """Of a session's Fault: the request that the session was working for, if its device said so."""


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """Close a socket once what was sent to it is written; the core has forgotten it."""

    connection: ConnectionId


@dataclass(frozen=True, slots=True)
class Unpack:
    """Make a call that takes long, where nothing else waits for it, and tell the core.

    What it gives or raises as RemoteProtocolError is to be told with `CloudCore.unpacked`.
    """

    connection: ConnectionId
    call: Callable[[], Payload]


@dataclass(frozen=True, slots=True)
class Traced:
    """A device has said which request a session, live or not, works for: something for a log."""

    connection: ConnectionId
    session: SessionId
    trace_id: bytes


Action = Send | CloseConnection | Unpack | Traced


@dataclass(frozen=True, slots=True)
class OpenSequence:
    """Call the engine's `open` and remember its answer under `handle`.

    When that fails, or `fork_of` is a handle that could not be opened, `handle` goes into the
    outcome's `failed_opens`.
    """

    handle: SequenceHandle
    max_tokens: int
    fork_of: SequenceHandle | None = None
    fork_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ReleaseSequence:
    """Call the engine's `release` and forget `handle`; a handle never opened is ignored."""

    handle: SequenceHandle


@dataclass(frozen=True, slots=True)
class SaveSequence:
    """Copy positions `[begin, end)` of a sequence to host memory, behind those copied before.

    With `is_last` the sequence is released then; `handle` names its copy from here on. A copy that
    cannot be made puts `handle` into the outcome's `failed_opens`.
    """

    handle: SequenceHandle
    begin: int
    end: int
    is_last: bool


@dataclass(frozen=True, slots=True)
class RestoreSequence:
    """Put positions `[begin, end)` of the copy named `source` behind those a sequence holds."""

    handle: SequenceHandle
    source: SequenceHandle
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class DropCopy:
    """Forget what was copied of a sequence, if anything was."""

    handle: SequenceHandle


Command = OpenSequence | ReleaseSequence | SaveSequence | RestoreSequence | DropCopy


@dataclass(frozen=True, slots=True)
class StepWork:
    """One sequence's share of a step: RAW rows, in the link's dtype, still packed.

    `payload` is a view of exactly `num_rows` rows for positions `[position, position + num_rows)`.
    Behind each wanted row come those that so many of the engine's layers have made as `taps` says.
    """

    handle: SequenceHandle
    position: int
    num_rows: int
    want: Want
    payload: memoryview
    taps: tuple[int, ...] = ()

    @property
    def num_answer_rows(self) -> int:
        """How many rows must come back, taps and all."""
        return self.num_wanted_rows * (1 + len(self.taps))

    @property
    def num_wanted_rows(self) -> int:
        """How many deep rows must come back."""
        return self.want.num_rows(self.num_rows)


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of the engine thread: first the commands in their order, then one forward.

    Steps are performed in the order of `number`. `items` may be empty.
    """

    number: int
    commands: tuple[Command, ...]
    items: tuple[StepWork, ...]

    @property
    def num_tokens(self) -> int:
        """Rows of all items together."""
        return sum(item.num_rows for item in self.items)

    @property
    def num_copied_tokens(self) -> int:
        """Positions that go to host memory and come back from there."""
        copies = (
            each for each in self.commands if isinstance(each, SaveSequence | RestoreSequence)
        )
        return sum(copy.end - copy.begin for copy in copies)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an item did not run, or a sequence did not open; ends that session alone.

    `code` is CAPACITY when the engine was full, BAD_FRAME when rows were not finite.
    """

    code: FaultCode
    message: str


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What a step gave. `seconds` is the engine's time for the forward alone, `copy_s` that for
    copies to host memory and back.

    `results` has one entry per item: its wanted deep rows, packed RAW in the link's dtype, or a
    refusal. `failed_opens` names the sequences that could not be opened or copied (an item of such
    a sequence has a refusal as well).
    """

    results: tuple[Payload | Refusal, ...]
    seconds: float
    failed_opens: tuple[tuple[SequenceHandle, Refusal], ...] = ()
    copy_s: float = 0.0

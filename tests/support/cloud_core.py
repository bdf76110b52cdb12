"""A cloud core with a device on each socket and an engine whose rows tell what they have seen."""

from binascii import crc32
from collections.abc import Sequence
from typing import Any

from cloud_server.core.actions import (
    Action,
    CloseConnection,
    ConnectionId,
    DropCopy,
    Identity,
    OpenSequence,
    Refusal,
    ReleaseSequence,
    RestoreSequence,
    SaveSequence,
    Send,
    SequenceHandle,
    Step,
    StepOutcome,
    StepWork,
    Traced,
    Unpack,
)
from cloud_server.core.core import CloudCore, CoreConfig
from wire.codec import encode
from wire.connection import DeviceConnection
from wire.errors import FaultCode
from wire.messages import (
    Codec,
    Dtype,
    Fault,
    Hello,
    Join,
    Message,
    Open,
    Payload,
    Reply,
    SessionId,
    States,
    Want,
)

ROW_BYTES = 4
COPY_S = 0.0005
"""Of a position to host memory, or back."""
FINGERPRINT = b"f" * 32
HELLO = Hello(1, 1, FINGERPRINT, 2, 6, 1, 0b111, 0b1, b"")
CONFIG = CoreConfig(
    fingerprint=FINGERPRINT,
    first_layer=2,
    num_layers=6,
    hidden_size=1,
    dtype=Dtype.FP32,
    capacity_tokens=64,
    max_context_tokens=32,
    max_sessions=4,
    max_connections=3,
    max_frame_tokens=12,
    credit_window_tokens=24,
    step_budget_tokens=8,
    verify_tokens=3,
    session_ttl_s=60.0,
    queue_deadline_s=30.0,
)

Row = bytes
"""One hidden state of size 1: any four bytes."""


def deep_row(prefix: Sequence[Row]) -> Row:
    """What the engine returns for the last row of a prefix: it depends on every row of it."""
    return crc32(b"".join(prefix)).to_bytes(ROW_BYTES, "little")


def tap_row(prefix: Sequence[Row], num_layers: int) -> Row:
    """What the engine's first layers make of the last row of a prefix."""
    return deep_row((*prefix, bytes([num_layers])))


def rows_of(payload: Payload) -> list[Row]:
    """The rows of a payload."""
    return [bytes(payload[i : i + ROW_BYTES]) for i in range(0, len(payload), ROW_BYTES)]


def shallow_rows(*numbers: int) -> list[Row]:
    """Rows that differ when their numbers do."""
    return [number.to_bytes(ROW_BYTES, "little") for number in numbers]


def opening(number: int, key: int, max_tokens: int = 16, **fork: Any) -> Open:
    """An Open with a key made of one byte."""
    return Open(SessionId(number), bytes([key]) * 16, max_tokens, **fork)


def states(
    number: int, position: int, rows: Sequence[Row], want: Want = Want.ALL, epoch: int = 0
) -> States:
    """A States frame with these rows."""
    place = (SessionId(number), epoch, position, len(rows))
    return States(*place, Dtype.FP32, Codec.RAW, want, b"".join(rows))


class PrefixEngine:
    """Performs steps as an engine thread would, and fails loudly when a step breaks a contract.

    Admission sees to it that the engine is never full, unless a step failed with its releases
    while the next one was under way already: then `may_be_full` is to be set.
    """

    def __init__(self, capacity_tokens: int, host_tokens: int = 0) -> None:
        self._capacity_tokens = capacity_tokens
        self._host_tokens = host_tokens
        self._max_tokens: dict[SequenceHandle, int] = {}
        self.cached: dict[SequenceHandle, list[Row]] = {}
        self.refused: set[SequenceHandle] = set()
        self.may_be_full = False
        self.copies: dict[SequenceHandle, list[Row]] = {}
        """What lies in host memory."""
        self.refused_copies: set[SequenceHandle] = set()

    def perform(self, step: Step, seconds: float = 0.01) -> StepOutcome:
        """Do the commands, then the items; items of `refused` sequences are refused."""
        failed = []
        for command in step.commands:
            if isinstance(command, OpenSequence):
                if command.fork_of is not None and command.fork_of not in self.cached:
                    failed.append((command.handle, Refusal(FaultCode.INTERNAL, "no source")))
                    continue
                if not self._has_room(command):
                    failed.append((command.handle, Refusal(FaultCode.CAPACITY, "full")))
                    continue
                self._open(command)
            elif isinstance(command, ReleaseSequence):
                self._release(command.handle)
            else:
                refusal = self._copy(command)
                failed += [] if refusal is None else [(command.handle, refusal)]
        assert len({item.handle for item in step.items}) == len(step.items), "one item each"
        assert sum(map(len, self.copies.values())) <= self._host_tokens or self.may_be_full
        results = tuple(self._run(item) for item in step.items)
        return StepOutcome(results, seconds, tuple(failed), COPY_S * step.num_copied_tokens)

    def _release(self, handle: SequenceHandle) -> None:
        self._max_tokens.pop(handle, None)
        self.cached.pop(handle, None)

    def _copy(self, command: SaveSequence | RestoreSequence | DropCopy) -> Refusal | None:
        """Perform it, or refuse where an earlier step had failed or this one is told to."""
        match command:
            case DropCopy(handle):
                self.copies.pop(handle, None)
                return None
            case SaveSequence(handle, begin, end, is_last):
                kept = self.copies.setdefault(handle, []) if begin else []
                cached = self.cached.get(handle, [])
                is_whole = len(kept) == begin < end <= len(cached)
                assert is_whole or self.may_be_full, "what is cached, piece by piece"
                self.copies[handle] = [*kept, *cached[begin:end]]
                if is_last:
                    assert end == len(cached) or self.may_be_full, "all of it"
                    self._release(handle)
            case RestoreSequence(handle, source, begin, end):
                kept, cached = self.copies.get(source, []), self.cached.get(handle, [])
                is_whole = len(cached) == begin < end <= len(kept)
                assert is_whole or self.may_be_full, "what was copied, piece by piece"
                if is_whole:
                    self.cached[handle] += kept[begin:end]
        if is_whole and handle not in self.refused_copies:
            return None
        self.cached.pop(handle, None)
        return Refusal(FaultCode.CAPACITY, "not copied")

    def _has_room(self, command: OpenSequence) -> bool:
        num_tokens = sum(self._max_tokens.values()) + command.max_tokens
        assert num_tokens <= self._capacity_tokens or self.may_be_full, "admission went before"
        return num_tokens <= self._capacity_tokens

    def _open(self, command: OpenSequence) -> None:
        if self.may_be_full:
            self._release(command.handle)
        assert command.handle not in self._max_tokens, "a handle is opened once at a time"
        self._max_tokens[command.handle] = command.max_tokens
        self.cached[command.handle] = []
        if command.fork_of is not None:
            source = self.cached[command.fork_of]
            assert command.fork_tokens <= len(source), "forks are of cached positions"
            self.cached[command.handle] = source[: command.fork_tokens]

    def _run(self, item: StepWork) -> Payload | Refusal:
        if item.handle in self.refused or item.handle not in self.cached:
            return Refusal(FaultCode.BAD_FRAME, "not finite")
        rows, cached = rows_of(item.payload), self.cached[item.handle]
        assert len(rows) == item.num_rows >= 1
        assert item.position <= len(cached), "no gap"
        del cached[item.position :]
        deep = []
        for row in rows:
            cached.append(row)
            answer = [deep_row(cached), *(tap_row(cached, tap) for tap in item.taps)]
            deep.append(b"".join(answer))
        assert len(cached) <= self._max_tokens[item.handle], "within its reservation"
        return b"".join(deep[len(deep) - item.num_wanted_rows :])


class Cloud:
    """A core whose actions are checked and sorted by device."""

    def __init__(self, config: CoreConfig = CONFIG) -> None:
        self.core = CloudCore(config)
        self.engine = PrefixEngine(config.capacity_tokens, config.host_tokens)
        self._config = config
        self.devices: dict[ConnectionId, DeviceConnection] = {}
        self.closed: set[ConnectionId] = set()
        self.inbox: dict[ConnectionId, list[Message]] = {}
        self.faulted: list[Send] = []
        self.traced: list[Traced] = []
        self.identities: dict[ConnectionId, str] = {}
        self._last_sessions: dict[ConnectionId, int] = {}
        self.heard_s: dict[ConnectionId, float] = {}
        self.now = 100.0
        self._num_connections = 0

    def join(self, join: Join, identity: str = "device 1") -> ConnectionId:
        """A new socket that says this first."""
        self._num_connections += 1
        lane = ConnectionId(self._num_connections)
        self.inbox[lane] = []
        self._take(self.core.connect(lane, self.now, Identity(identity), bytes(16)))
        self.send_unchecked(lane, join)
        return lane

    def connect(
        self,
        hello: Message | None = HELLO,
        identity: str | None = None,
        lane_key: bytes = b"",
    ) -> ConnectionId:
        """A new socket, greeted unless `hello` is None; of somebody new unless it is said whose."""
        self._num_connections += 1
        connection = ConnectionId(self._num_connections)
        owner = Identity(identity or f"device {connection}")
        self.identities[connection], self.heard_s[connection] = owner, self.now
        self.devices[connection] = DeviceConnection()
        self.inbox[connection] = []
        self._take(self.core.connect(connection, self.now, owner, lane_key))
        if hello is not None:
            self.send(connection, hello)
        return connection

    def send(self, connection: ConnectionId, message: Message) -> list[Message]:
        """Send as a device that keeps the rules; what the cloud answers at once."""
        self.devices[connection].send(message)
        if isinstance(message, Open):
            self._last_sessions[connection] = message.session
        return self.send_unchecked(connection, message)

    def next_session(self, connection: ConnectionId) -> int:
        """A number that no session of a device has had."""
        return self._last_sessions.get(connection, 0) + 1

    def send_unchecked(self, connection: ConnectionId, message: Message) -> list[Message]:
        """Send whatever it is; what the cloud answers at once."""
        return self.send_frame(connection, encode(message))

    def send_frame(self, connection: ConnectionId, frame: bytes) -> list[Message]:
        """Send bytes; what the cloud answers at once."""
        num_before = len(self.inbox[connection])
        self.heard_s[connection] = self.now
        self._take(self.core.receive_frame(connection, frame, self.now))
        return self.inbox[connection][num_before:]

    def disconnect(self, connection: ConnectionId) -> None:
        """Lose a socket."""
        self._take(self.core.disconnect(connection, self.now))
        del self.devices[connection]

    def run_step(self) -> Step | None:
        """Give out a step and end it."""
        step = self.core.next_step(self.now)
        if step is not None:
            self.finish_step(step)
        return step

    def finish_step(self, step: Step, seconds: float = 0.01) -> StepOutcome:
        """Perform a step that was given out."""
        outcome = self.engine.perform(step, seconds)
        self._take(self.core.step_done(step, outcome, self.now))
        return outcome

    def fail_step(self, step: Step) -> None:
        """The engine raises before it does anything of a step."""
        self._take(self.core.step_failed(step, "out of order", self.now))

    def lose_engine(self, restart_s: float) -> None:
        """The engine is gone with what it held; the next one is empty."""
        self.engine = PrefixEngine(self._config.capacity_tokens, self._config.host_tokens)
        self._take(self.core.engine_lost("lost", restart_s))

    def run_all(self, most_steps: int = 1000) -> int:
        """Steps until there is nothing to do; how many."""
        for num_steps in range(most_steps):
            if self.run_step() is None:
                return num_steps
        raise AssertionError(f"expected an end within {most_steps} steps")

    def pass_time(self, seconds: float) -> None:
        """Let time pass and the core know."""
        self.now += seconds
        self._take(self.core.tick(self.now))

    def shut_down(self) -> None:
        """Stop the core."""
        self._take(self.core.shut_down(self.now))

    def received(self, connection: ConnectionId) -> list[Message]:
        """What came since the last call."""
        messages, self.inbox[connection] = self.inbox[connection], []
        return messages

    def replies(self, connection: ConnectionId) -> list[Reply]:
        """The Replies that came since the last call."""
        return [m for m in self.received(connection) if isinstance(m, Reply)]

    def faults(self, connection: ConnectionId) -> list[FaultCode]:
        """The codes of the Faults that came since the last call."""
        return [m.code for m in self.received(connection) if isinstance(m, Fault)]

    def _take(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(connection, message):
                    encode(message)
                    if isinstance(message, Fault):
                        self.faulted.append(action)
                    if connection in self.devices:
                        self.devices[connection].receive(message)
                    self.inbox[connection].append(message)
                case Traced():
                    self.traced.append(action)
                case Unpack():
                    raise AssertionError("rows here are RAW")
                case CloseConnection(connection):
                    self.closed.add(connection)
                    if connection in self.devices:
                        self.devices[connection].close()


def deep_rows(prefix: list[Row], num_rows: int) -> list[Row]:
    """What comes back for the last rows of a prefix."""
    begin = len(prefix) - num_rows
    return [deep_row(prefix[: i + 1]) for i in range(begin, len(prefix))]


def one_fault(messages: list[Message]) -> Fault:
    faults = [message for message in messages if isinstance(message, Fault)]
    assert len(faults) == 1
    return faults[0]


def figures(cloud: Cloud) -> tuple[int, int]:
    """Sessions and reserved tokens."""
    shown = cloud.core.figures()
    return shown.num_sessions, shown.reserved_tokens

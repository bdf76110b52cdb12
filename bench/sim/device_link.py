"""A device's socket under virtual time: what `Link`, `LinkConnection` and `LinkSession` do.

Rules of the connection, outbox, meter and estimators are the production objects; sockets never
break here, so there is one connection from the beginning to the end.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.sim.cloud import (
    FINGERPRINT,
    FIRST_LAYER,
    NUM_LAYERS,
    ROW_BYTES,
    ROW_HIDDEN_SIZE,
    Replica,
)
from bench.sim.frames import frame_bytes, websocket_bytes
from bench.sim.kernel import Kernel, Process, Signal
from bench.sim.link import Channel
from chunking.state_monitor import StateMonitor
from cloud_server.core.actions import ConnectionId
from device_runtime.generation.request import CloudUnavailableError
from device_runtime.link.link import LinkLimits
from device_runtime.link.meter import LinkMeter
from device_runtime.link.outbox import Outbox, RowsFrame, max_prefill_rows
from device_runtime.link.session import (
    MAX_QUEUED_FRAMES,
    MAX_UNANSWERED_FRAMES,
    SessionRefusedError,
)
from wire.connection import DeviceConnection
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
    Reply,
    SessionId,
    States,
    Want,
    Welcome,
)

UNSENT_BYTES = 131_072
"""What a sender hands over before it waits: the kernel's unsent bytes and the transport's buffer,
64 KiB each."""

_HELLO = Hello(1, 1, FINGERPRINT, FIRST_LAYER, NUM_LAYERS, ROW_HIDDEN_SIZE, 0b111, 0b1, b"")


@dataclass(slots=True)
class Channels:
    """Both ways of a device."""

    uplink: Channel
    downlink: Channel


@dataclass(slots=True)
class SimStream:
    """One session in the cloud, as `LinkSession`; `changed` fires with everything that happens."""

    request: Open
    changed: Signal
    bytes_up: int = 0
    bytes_down: int = 0
    num_cached_tokens: int | None = None
    replies: deque[Reply] = field(default_factory=deque)
    failure: CloudUnavailableError | None = None
    is_closed: bool = False
    num_queued: int = 0
    num_unanswered: int = 0

    @property
    def is_live(self) -> bool:
        """Whether it may still be used."""
        return self.failure is None and not self.is_closed

    @property
    def is_opened(self) -> bool:
        """Whether the cloud has had the session, whatever became of it."""
        return self.num_cached_tokens is not None

    @property
    def may_queue(self) -> bool:
        """Whether another frame may wait in the outbox."""
        num_open = self.num_unanswered + len(self.replies)
        return self.num_queued < MAX_QUEUED_FRAMES and num_open < MAX_UNANSWERED_FRAMES

    def until(self, condition: Callable[[], bool]) -> Process[None]:
        """Wait for a condition, or raise the failure of the session; patience never ends."""
        while True:
            if self.failure is not None:
                raise self.failure
            if condition():
                return
            yield self.changed


@dataclass(frozen=True, slots=True)
class Rows:
    """A frame's place and whether it verifies."""

    epoch: int
    position: int
    num_rows: int
    want: Want
    is_verify: bool


class DeviceLink:
    """One device's connection to one replica. `row_bytes` is what a row takes on the wire."""

    def __init__(
        self,
        kernel: Kernel,
        connection: ConnectionId,
        channels: Channels,
        row_bytes: int,
        monitor: StateMonitor,
    ) -> None:
        self.monitor = monitor
        self.limits: LinkLimits | None = None
        self._kernel = kernel
        self._connection = connection
        self._channels = channels
        self._row_bytes = row_bytes
        self._rules = DeviceConnection()
        self._meter = LinkMeter(self.monitor, kernel.clock)
        self._outbox = Outbox(0)
        self._streams: dict[SessionId, SimStream] = {}
        self._changed = Signal(kernel)
        self._replica: Replica | None = None
        self._frame_s = 0.0
        self._num_keys = 0
        self._last_session = 0

    def connect(self, replica: Replica, frame_s: float) -> None:
        """Greet a replica, at once, and be its own from now on."""
        self._replica, self._frame_s = replica, frame_s
        replica.connect(self._connection, self._channels.downlink, self._take)
        self._rules.send(_HELLO)
        welcome = replica.greet(self._connection, _HELLO)
        assert isinstance(welcome, Welcome), "the simulated cloud knows the simulated model"
        self._rules.receive(welcome)
        self._outbox = Outbox(welcome.credit_limit_tokens)
        self.limits = LinkLimits(
            max_context_tokens=welcome.max_context_tokens,
            max_frame_tokens=max_prefill_rows(
                welcome.max_frame_tokens, welcome.credit_limit_tokens
            ),
            session_ttl_s=welcome.session_ttl_s,
        )
        self._kernel.spawn(self._write_all())

    def open(self, max_tokens: int, reopened: SimStream | None = None) -> SimStream:
        """Ask for a session, or for one that the cloud has ended, by its key."""
        self._last_session += 1
        number = SessionId(self._last_session)
        if reopened is not None:
            key = reopened.request.key
        else:
            self._num_keys += 1
            key = self._connection.to_bytes(8, "big") + self._num_keys.to_bytes(8, "big")
        request = Open(number, key, max_tokens)
        stream = SimStream(request, Signal(self._kernel))
        if reopened is not None:
            stream.bytes_up, stream.bytes_down = reopened.bytes_up, reopened.bytes_down
        self._streams[number] = stream
        self._put(request)
        return stream

    def send(self, stream: SimStream, rows: Rows) -> Process[None]:
        """Queue a frame once there is room; it may still wait for the uplink afterwards."""
        yield from stream.until(lambda: stream.may_queue)
        payload = bytes(ROW_BYTES * rows.num_rows)
        place = (stream.request.session, rows.epoch, rows.position, rows.num_rows)
        states = States(*place, Dtype.FP16, Codec.RAW, rows.want, payload)
        stream.num_queued += 1
        stream.num_unanswered += 1
        self._put(RowsFrame(states, rows.is_verify))

    def close(self, stream: SimStream) -> None:
        """End a session on both sides; repeats are harmless."""
        if stream.is_closed:
            return
        stream.is_closed = True
        number = stream.request.session
        if self._streams.pop(number, None) is not None:
            self._outbox.discard(number)
            self._put(Close(number))

    def _put(self, item: Open | Close | RowsFrame) -> None:
        self._outbox.put(item)
        self._changed.fire()

    def _write_all(self) -> Process[None]:
        while True:
            item = self._outbox.next(self._rules.num_available_tokens)
            if item is None:
                yield self._changed
                continue
            message = item.states if isinstance(item, RowsFrame) else item
            num_bytes = self._write(message)
            uplink = self._channels.uplink
            while (wait_s := uplink.wait_s(UNSENT_BYTES)) > 0.0:
                yield wait_s
            if isinstance(item, RowsFrame):
                stream = self._streams.get(item.states.session)
                if stream is not None:
                    stream.bytes_up += num_bytes
                    stream.num_queued -= 1
                    stream.changed.fire()

    def _write(self, message: Open | Close | States) -> int:
        self._rules.send(message)
        num_bytes = frame_bytes(message, self._row_bytes)
        self._meter.on_write(message, num_bytes)
        replica = self._replica
        assert replica is not None, "connected before anything is sent"
        carried = websocket_bytes(num_bytes, is_masked=True)

        def arrive() -> None:
            replica.receive(self._connection, message)

        half_s = self._frame_s / 2
        if half_s:
            late = self._kernel.after
            self._channels.uplink.send(carried, lambda: late(half_s, arrive))
        else:
            self._channels.uplink.send(carried, arrive)
        return num_bytes

    def _take(self, message: Message, num_bytes: int) -> None:
        """A message has come down."""
        self._rules.receive(message)
        self._meter.on_read(message, num_bytes)
        match message:
            case Opened():
                if (stream := self._streams.get(message.session)) is not None:
                    stream.num_cached_tokens = message.cached_tokens
                    stream.changed.fire()
            case Reply():
                if (stream := self._streams.get(message.session)) is not None:
                    stream.bytes_down += num_bytes
                    stream.num_unanswered -= 1
                    stream.replies.append(message)
                    stream.changed.fire()
            case Fault() if message.session != NO_SESSION:
                if (stream := self._streams.pop(message.session, None)) is not None:
                    self._outbox.discard(message.session)
                    stream.failure = SessionRefusedError(message)
                    stream.changed.fire()
            case Fault():
                raise RuntimeError(f"the simulated cloud refused a socket: {message.message}")
            case Credit():
                self._changed.fire()
            case _:
                raise RuntimeError(f"expected no {type(message).__name__} here")

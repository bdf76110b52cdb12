"""A cloud of the production core under virtual time: what `CloudDaemon` does, and an engine's time.

As there, frames that came at one moment are all taken before a step is given out, and the engine
gets its next step before replies are sent. With pipeline stages a step is given out when the
first stage is free, with at most as many under way as there are stages; each stage takes an equal
share, and `seconds` is the way through all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bench.sim.frames import frame_bytes, websocket_bytes
from bench.sim.kernel import Kernel
from bench.sim.link import Channel
from bench.sim.times import NO_OVERHEADS, Overheads, StepTime
from cloud_server.core.actions import (
    Action,
    CloseConnection,
    ConnectionId,
    Identity,
    Send,
    Step,
    StepOutcome,
)
from cloud_server.core.core import CloudCore, CoreConfig
from wire.messages import Dtype, Message

ROW_HIDDEN_SIZE = 1
ROW_DTYPE = Dtype.FP16
ROW_BYTES = 2
"""Of the rows that are really passed around; links and estimators count `row_bytes` instead."""

FINGERPRINT = b"simulated-model-simulated-model-"
FIRST_LAYER, NUM_LAYERS = 1, 1

_TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class CloudSpec:
    """One replica: engine times, pipeline, the core's settings, and bytes of a row on the wire."""

    step_time: StepTime
    core: CoreConfig
    row_bytes: int
    num_stages: int = 1
    overheads: Overheads = NO_OVERHEADS


def core_config(capacity_tokens: int, max_context_tokens: int, **settings: int) -> CoreConfig:
    """The production core's settings, the others as they are by default."""
    config = CoreConfig(
        fingerprint=FINGERPRINT,
        first_layer=FIRST_LAYER,
        num_layers=NUM_LAYERS,
        hidden_size=ROW_HIDDEN_SIZE,
        dtype=ROW_DTYPE,
        capacity_tokens=capacity_tokens,
        max_context_tokens=max_context_tokens,
    )
    return replace(config, **settings)  # type: ignore[arg-type]


@dataclass(slots=True)
class _Socket:
    downlink: Channel
    deliver: Callable[[Message, int], None]


class Replica:
    """One cloud. `steps` are the rows and seconds of its steps, in order."""

    def __init__(self, kernel: Kernel, spec: CloudSpec) -> None:
        self.core = CloudCore(spec.core)
        self.num_connections = 0
        self.steps: list[tuple[int, float]] = []
        self._kernel = kernel
        self._spec = spec
        self._sockets: dict[ConnectionId, _Socket] = {}
        self._num_running = 0
        self._stage_free_s = [0.0] * spec.num_stages
        self._is_pump_due = False
        self._is_over: Callable[[], bool] = lambda: False

    @property
    def load(self) -> tuple[int, int]:
        """What a balancer compares: sessions, then sockets."""
        figures = self.core.figures()
        num_attached = figures.num_sessions - figures.num_detached_sessions
        return num_attached, self.num_connections

    def start(self, is_over: Callable[[], bool]) -> None:
        """Look at deadlines once a second until it is over."""
        self._is_over = is_over
        self._kernel.after(_TICK_S, self._tick)

    def connect(
        self, connection: ConnectionId, downlink: Channel, deliver: Callable[[Message, int], None]
    ) -> None:
        """Take a socket; `deliver` gets what comes down on it, and each frame's bytes."""
        self.num_connections += 1
        self._sockets[connection] = _Socket(downlink, deliver)
        owner = Identity(f"device {connection}")
        self._perform(self.core.connect(connection, self._kernel.now, owner))

    def receive(self, connection: ConnectionId, message: Message) -> None:
        """Take a message of a socket."""
        self._perform(self.core.receive(connection, message, self._kernel.now))

    def greet(self, connection: ConnectionId, hello: Message) -> Message:
        """The answer to a Hello, without the way there and back."""
        actions = self.core.receive(connection, hello, self._kernel.now)
        (welcome,) = [action.message for action in actions if isinstance(action, Send)]
        return welcome

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    self._send(action)
                case CloseConnection():
                    self._sockets.pop(action.connection, None)
        if not self._is_pump_due and self.core.has_work:
            self._is_pump_due = True
            self._kernel.after(0.0, self._pump)

    def _send(self, action: Send) -> None:
        socket = self._sockets.get(action.connection)
        if socket is None:
            return
        num_bytes = frame_bytes(action.message, self._spec.row_bytes)
        deliver = partial(socket.deliver, action.message, num_bytes)
        half_s = self._spec.overheads.frame_s / 2
        carried = websocket_bytes(num_bytes, is_masked=False)
        if half_s:
            self._kernel.after(half_s, lambda: socket.downlink.send(carried, deliver))
        else:
            socket.downlink.send(carried, deliver)

    def _pump(self) -> None:
        self._is_pump_due = False
        now = self._kernel.now
        if self._num_running >= self._spec.num_stages or self._stage_free_s[0] > now:
            return
        step = self.core.next_step(now)
        if step is None:
            return
        self._num_running += 1
        seconds = self._spec.step_time.of(step) if step.items else 0.0
        first_s, done_s = self._through_the_stages(seconds)
        self._kernel.at(done_s, partial(self._step_done, step, done_s - now))
        if self._spec.num_stages > 1:
            self._kernel.at(first_s, self._pump)

    def _through_the_stages(self, seconds: float) -> tuple[float, float]:
        """When the first stage and when the last is done with a step that begins now."""
        free_s = self._stage_free_s
        share_s = seconds / len(free_s)
        done_s = self._kernel.now
        for stage, busy_until_s in enumerate(free_s):
            hand_over_s = self._spec.overheads.hand_over_s if stage else 0.0
            done_s = max(done_s + hand_over_s, busy_until_s) + share_s
            free_s[stage] = done_s
        return free_s[0], done_s

    def _step_done(self, step: Step, seconds: float) -> None:
        self._num_running -= 1
        if step.items:
            self.steps.append((step.num_tokens, seconds))
        results = tuple(bytes(ROW_BYTES * item.num_wanted_rows) for item in step.items)
        actions = self.core.step_done(step, StepOutcome(results, seconds), self._kernel.now)
        self._pump()
        self._perform(actions)

    def _tick(self) -> None:
        if not self._is_over():
            self._perform(self.core.tick(self._kernel.now))
            self._kernel.after(_TICK_S, self._tick)


def least_loaded(replicas: Sequence[Replica]) -> Replica:
    """Where a device's socket goes, to stay: the fewest sessions, then sockets, then the first."""
    return min(replicas, key=lambda replica: replica.load)

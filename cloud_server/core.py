"""The cloud's pure heart: sockets' messages and finished steps in, messages and steps out."""

from dataclasses import dataclass

from cloud_server.actions import Action, ConnectionId, Step, StepOutcome
from wire.codec import Frame
from wire.messages import Dtype, Message


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """What the core must know of model, engine and operator.

    `credential` empty lets every device in. `credit_window_tokens` bounds the rows a connection
    may have outstanding, and is at least twice `max_frame_tokens`. A frame that wants rows back
    and has at most `verify_tokens` counts as a verification and goes first.
    """

    fingerprint: bytes
    first_layer: int
    num_layers: int
    hidden_size: int
    dtype: Dtype
    capacity_tokens: int
    max_context_tokens: int
    credential: bytes = b""
    max_sessions: int = 256
    max_connections: int = 256
    max_frame_tokens: int = 512
    credit_window_tokens: int = 2048
    step_budget_tokens: int = 512
    verify_tokens: int = 32
    target_step_s: float | None = None
    session_ttl_s: float = 60.0
    queue_deadline_s: float = 30.0
    handshake_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class CoreFigures:
    """The core's load at one moment, for metrics and readiness."""

    num_connections: int
    num_sessions: int
    num_detached_sessions: int
    reserved_tokens: int
    capacity_tokens: int
    queued_tokens: int
    running_tokens: int
    step_budget_tokens: int
    retry_after_s: float
    is_draining: bool


class CloudCore:
    """Sessions, credit, admission and scheduling; performs nothing itself.

    One owner calls it from one thread. `now` is a monotonic clock in seconds. It never raises
    for what a device did: the device gets a Fault.
    """

    def __init__(self, config: CoreConfig) -> None: ...

    def connect(self, connection: ConnectionId, now: float) -> list[Action]:
        """Take a new socket; its first frame must be Hello, within `handshake_timeout_s`."""
        ...

    def receive_frame(self, connection: ConnectionId, frame: Frame, now: float) -> list[Action]:
        """Decode one binary frame and take its message; a malformed one ends the connection."""
        ...

    def receive(self, connection: ConnectionId, message: Message, now: float) -> list[Action]:
        """Take one decoded message. Messages of a forgotten connection are ignored."""
        ...

    def disconnect(self, connection: ConnectionId, now: float) -> list[Action]:
        """Forget a socket; its sessions wait `session_ttl_s` for another. Repeats are harmless."""
        ...

    @property
    def has_work(self) -> bool:
        """Whether `next_step` would give a step."""
        ...

    def next_step(self, now: float) -> Step | None:
        """The next turn of the engine thread. May be called while earlier steps still run."""
        ...

    def step_done(self, step: Step, outcome: StepOutcome, now: float) -> list[Action]:
        """Take a step's results; steps end in the order in which they were given out."""
        ...

    def step_failed(self, step: Step, reason: str, now: float) -> list[Action]:
        """The engine raised: every session of the step is ended with INTERNAL; others go on."""
        ...

    def tick(self, now: float) -> list[Action]:
        """Expire deadlines, lost sessions and silent handshakes; call it about once a second."""
        ...

    def drain(self, now: float) -> list[Action]:
        """Refuse new sessions from here on and let the running ones finish."""
        ...

    @property
    def is_drained(self) -> bool:
        """Whether no device holds a session any more and no step runs."""
        ...

    def shut_down(self, now: float) -> list[Action]:
        """End every session and connection with DRAINING."""
        ...

    def figures(self) -> CoreFigures:
        """The load at this moment."""
        ...

"""The settings of the cloud's core, and the figures that it shows."""

from dataclasses import dataclass

from wire.limits import FINGERPRINT_BYTES, RowLimits
from wire.messages import Dtype

MAX_SESSION_FRAMES = 64
"""States frames of a session that may be queued: twice what our device leaves unanswered. An
identity so has no more than this for each of its sessions."""

MAX_CONNECTION_FRAMES = 1024
"""And of a connection. Credit bounds rows; this bounds what each frame costs beside its rows."""


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """What the core must know of model, engine and operator.

    Reservations of KV positions take whole blocks of `block_tokens`. `credential` empty lets every
    device in. `credit_window_tokens` bounds the rows a connection may have outstanding, and is at
    least twice `max_frame_tokens`. A frame that wants rows back and has at most `verify_tokens`
    counts as a verification and goes first. Of one session, rows that follow each other may be in
    `steps_in_flight` steps at once. The step budget shrinks and grows until a step takes
    `target_step_s`; 0 leaves it as it is. A new session is refused when its first rows would wait
    longer than `queue_deadline_s`. What has done nothing for `quiet_s` may give way: a session to
    a new one of somebody with less, a device to a cloud that drains.

    While several identities are connected, each may have `identity_share` of the sessions, the KV
    positions and the connections, and a session of the full context in any case.

    Raises:
        ValueError: values that do not fit together.
    """

    fingerprint: bytes
    first_layer: int
    num_layers: int
    hidden_size: int
    dtype: Dtype
    capacity_tokens: int
    max_context_tokens: int
    block_tokens: int = 1
    credential: bytes = b""
    max_sessions: int = 256
    max_connections: int = 256
    max_frame_tokens: int = 512
    credit_window_tokens: int = 2048
    step_budget_tokens: int = 512
    steps_in_flight: int = 1
    verify_tokens: int = 32
    target_step_s: float = 0.25
    identity_share: float = 0.5
    session_ttl_s: float = 60.0
    queue_deadline_s: float = 30.0
    handshake_timeout_s: float = 10.0
    quiet_s: float = 2.0

    def __post_init__(self) -> None:
        if len(self.fingerprint) != FINGERPRINT_BYTES:
            got = len(self.fingerprint)
            raise ValueError(f"expected a fingerprint of {FINGERPRINT_BYTES} bytes, got {got}")
        self._check_least("max_context_tokens", 1)
        self._check_least("block_tokens", 1)
        self._check_least("max_sessions", 1)
        self._check_least("max_connections", 1)
        self._check_least("max_frame_tokens", 1)
        self._check_least("verify_tokens", 1)
        self._check_least("credit_window_tokens", 2 * self.max_frame_tokens)
        self._check_least("step_budget_tokens", 2 * self.verify_tokens)
        if not 0 < self.identity_share <= 1:
            share = self.identity_share
            raise ValueError(f"expected an identity_share above 0 and up to 1, got {share}")

    @property
    def rows(self) -> RowLimits:
        """What rows look like here."""
        return RowLimits(self.hidden_size, self.dtype, self.max_frame_tokens)

    def most_sessions(self, is_alone: bool) -> int:
        """Sessions that one identity may have."""
        return self._share_of(self.max_sessions, 1, is_alone)

    def most_connections(self, is_alone: bool) -> int:
        """Connections that one identity may have."""
        return self._share_of(self.max_connections, 1, is_alone)

    def most_tokens(self, is_alone: bool) -> int:
        """KV positions that one identity may reserve."""
        context_tokens = -(-self.max_context_tokens // self.block_tokens) * self.block_tokens
        return self._share_of(self.capacity_tokens, context_tokens, is_alone)

    def _share_of(self, num_all: int, least: int, is_alone: bool) -> int:
        return num_all if is_alone else min(num_all, max(least, int(self.identity_share * num_all)))

    def _check_least(self, name: str, least: int) -> None:
        if getattr(self, name) < least:
            raise ValueError(f"expected {name} of at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class CoreFigures:
    """The core's load at one moment, for metrics and readiness.

    `retry_after_s` is what a device refused now would be told. `step_seconds` is the expected
    time of a full step, None before the first one.
    """

    num_connections: int
    num_sessions: int
    num_detached_sessions: int
    num_running_sessions: int
    num_waiting_sessions: int
    reserved_tokens: int
    capacity_tokens: int
    queued_tokens: int
    step_budget_tokens: int
    step_seconds: float | None
    retry_after_s: float
    is_draining: bool

"""The settings of the cloud's core, and the figures that it shows."""

from dataclasses import dataclass

from wire.limits import FINGERPRINT_BYTES, RowLimits
from wire.messages import Codec, Dtype
from wire.trees import MAX_TREE_ROWS


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """What the core must know of model, engine and operator.

    Reservations of KV positions take whole blocks of `block_tokens`. `credential` empty lets every
    device in. `credit_window_tokens` bounds the rows a connection may have outstanding, and is at
    least twice `max_frame_tokens`. A frame that wants rows back and has at most `verify_tokens`
    counts as a verification and goes first. Of one session, rows that follow each other may be in
    `steps_in_flight` steps at once. With `target_step_s` the step budget shrinks until a step is
    expected to take no longer. While draining, a device that has done nothing for `quiet_s` is
    sent away. `takes_trees` offers devices frames whose rows branch; each of these is a
    verification too.

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
    takes_trees: bool = False
    target_step_s: float | None = None
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
        self._check_least("verify_tokens", MAX_TREE_ROWS if self.takes_trees else 1)
        self._check_least("credit_window_tokens", 2 * self.max_frame_tokens)
        self._check_least("step_budget_tokens", 2 * self.verify_tokens)

    @property
    def rows(self) -> RowLimits:
        """What rows look like here, and the codecs that devices are offered."""
        codecs = 1 << Codec.RAW | self.takes_trees << Codec.RAW_TREE
        return RowLimits(self.hidden_size, self.dtype, self.max_frame_tokens, codecs)

    @property
    def chunk_quantum_tokens(self) -> int:
        """Rows of prefill per turn of a connection: four devices share a step."""
        return max(1, self.step_budget_tokens // 4)

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

"""The settings of the cloud's core, and the figures that it shows."""

from dataclasses import dataclass, field

from wire.limits import FINGERPRINT_BYTES, RowLimits
from wire.messages import Ability, Codec, Dtype

MAX_SESSION_FRAMES = 64
"""States frames of a session that may be queued: twice what our device leaves unanswered. An
identity so has no more than this for each of its sessions."""

MAX_CONNECTION_FRAMES = 1024
"""And of a connection. Credit bounds rows; this bounds what each frame costs beside its rows."""


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """What the core must know of model, engine and operator.

    Raises:
        ValueError: values that do not fit together.
    """

    fingerprint: bytes
    """Of the whole model."""
    first_layer: int
    num_layers: int
    hidden_size: int
    dtype: Dtype
    capacity_tokens: int
    """KV positions of all sessions together."""
    max_context_tokens: int
    """KV positions of one session."""
    block_tokens: int = 1
    """Reservations take whole blocks of so many KV positions."""
    host_tokens: int = 0
    """KV positions of idle sessions that may be kept in host memory, outside the engine."""
    credential: bytes = field(default=b"", repr=False)
    """What a device must say; empty lets every device in, unless there are tokens."""
    takes_certificates: bool = False
    """Whether a device may show a certificate instead."""
    max_sessions: int = 256
    max_connections: int = 256
    max_lanes: int = 0
    """Further sockets of all connections, which carry pieces of frames (rule W44); 0: none."""
    max_frame_tokens: int = 512
    """Rows of one frame."""
    credit_window_tokens: int = 2048
    """Rows that a connection may have outstanding: at least two full frames."""
    step_budget_tokens: int = 512
    """Rows of one step, at most: at least two verifications."""
    steps_in_flight: int = 1
    """Steps that may hold rows of one session at once, which follow each other."""
    verify_tokens: int = 32
    """A frame of at most so many rows that wants rows back is a verification, and goes first."""
    target_step_s: float = 0.25
    """The step budget shrinks and grows until a step takes so long; 0 leaves it as it is."""
    identity_share: float = 0.5
    """While several identities are connected, each may have this share of the sessions, the KV
    positions and the connections, and a session of the full context in any case."""
    session_ttl_s: float = 60.0
    """How long a session waits for another socket, or for its first rows."""
    queue_deadline_s: float = 30.0
    """A new session is refused when its first rows would wait longer."""
    handshake_timeout_s: float = 10.0
    takes_traces: bool = False
    """Whether devices may say which request a session's work is for (rule W52)."""
    takes_taps: bool = False
    """Whether the engine gives rows of further depths to sessions that ask for them."""
    middle_fingerprint: bytes = b""
    """Of the middle layers alone, which devices with other ends have as well; empty: only devices
    of the whole model are let in."""
    codecs: int = 1 << Codec.RAW
    """The set of codecs that rows may be in, on links whose devices speak them too."""
    tables: bytes = b""
    """What they need, as a Welcome carries it."""
    quiet_s: float = 2.0
    """What has done nothing for so long may give way: a session to a new one of somebody with
    less, a device to a cloud that drains."""

    def __post_init__(self) -> None:
        if len(self.fingerprint) != FINGERPRINT_BYTES:
            got = len(self.fingerprint)
            raise ValueError(f"expected a fingerprint of {FINGERPRINT_BYTES} bytes, got {got}")
        if len(self.middle_fingerprint) not in (0, FINGERPRINT_BYTES):
            got = len(self.middle_fingerprint)
            expected = f"expected a middle_fingerprint of {FINGERPRINT_BYTES} bytes, or none"
            raise ValueError(f"{expected}, got {got}")
        self._check_least("max_context_tokens", 1)
        self._check_least("block_tokens", 1)
        self._check_least("host_tokens", 0)
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
        codecs = self.codecs | self.takes_taps << Codec.TAPPED
        codecs |= bool(self.max_lanes) << Ability.LANES | 1 << Ability.QUOTAS
        codecs |= self.takes_traces << Ability.TRACES
        return RowLimits(self.hidden_size, self.dtype, self.max_frame_tokens, codecs)

    def most_sessions(self, is_alone: bool) -> int:
        """Sessions that one identity may have."""
        return self._share_of(self.max_sessions, 1, is_alone)

    def most_connections(self, is_alone: bool) -> int:
        """Connections that one identity may have."""
        return self._share_of(self.max_connections, 1, is_alone)

    def most_lanes(self, is_alone: bool) -> int:
        """Lanes that one identity may have."""
        return self._share_of(self.max_lanes, 1, is_alone)

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
    """The core's load at one moment, for metrics and readiness."""

    num_connections: int
    num_lanes: int
    num_sessions: int
    num_detached_sessions: int
    num_running_sessions: int
    num_waiting_sessions: int
    reserved_tokens: int
    capacity_tokens: int
    queued_tokens: int
    dropped_tokens: int
    """Rows so far that a newer epoch made stale before they ran."""
    saved_bytes: int
    """What coded rows so far took less than RAW ones."""
    lossy_tokens: int
    """Rows that came in a lossy codec."""
    step_budget_tokens: int
    retry_after_s: float
    """What a device refused now would be told."""
    is_draining: bool
    num_saved_sessions: int = 0
    """Sessions in host memory, or on the way there or back."""
    host_tokens: int = 0
    """KV positions there."""
    host_capacity_tokens: int = 0
    saves: int = 0
    restores: int = 0
    dropped_copies: int = 0
    """Sessions so far that ended there because others needed the memory."""

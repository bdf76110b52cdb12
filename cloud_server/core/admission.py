"""Whether a session may be opened at all, apart from the room there is."""

from collections.abc import Mapping

from cloud_server.core.config import CoreConfig
from cloud_server.core.names.quota import QuotaRefusal
from cloud_server.core.session import Session
from wire.errors import FaultCode
from wire.limits import TAPS_BYTES
from wire.messages import NO_SESSION, Open, SessionId


class AdmissionError(Exception):
    """A session cannot be had now, or never (`can_retry` False).

    `retry_after_s` is when it can, where that is known; else the cloud's load says.
    """

    def __init__(
        self,
        code: FaultCode,
        message: str,
        can_retry: bool = True,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.can_retry = can_retry
        self.retry_after_s = retry_after_s


def over_quota(refusal: QuotaRefusal) -> AdmissionError:
    """The error for a name that has what it may have."""
    retry_s = refusal.retry_after_s
    return AdmissionError(FaultCode.QUOTA, refusal.message, retry_s > 0, retry_s)


def check_demand(config: CoreConfig, message: Open, num_commands: int) -> None:
    """Return if nothing but room can be against this session.

    Raises:
        AdmissionError: it is too long, or too many sequences wait to be opened and released.
    """
    context, most_commands = config.max_context_tokens, 4 * config.max_sessions
    if message.max_tokens > context:
        reason = f"expected at most {context} tokens, got {message.max_tokens}"
        raise AdmissionError(FaultCode.CONTEXT_EXCEEDED, reason, can_retry=False)
    if num_commands >= most_commands:
        reason = f"expected fewer than {most_commands} sequences to open and release"
        raise AdmissionError(FaultCode.TOO_MANY_SESSIONS, reason)


def taps_of(config: CoreConfig, message: Open) -> tuple[int, ...]:
    """After how many of the cloud's layers the session wants further rows, low to high.

    Raises:
        AdmissionError: a depth whose rows no middle layer makes, or the last one, whose rows come
            back anyway.
    """
    taps = tuple(d - config.first_layer for d in range(8 * TAPS_BYTES) if message.taps >> d & 1)
    if all(0 < tap < config.num_layers for tap in taps):
        return taps
    low, high = config.first_layer + 1, config.first_layer + config.num_layers - 1
    depths = ", ".join(str(tap + config.first_layer) for tap in taps)
    reason = f"expected taps at depths from {low} to {high}, got {depths}"
    raise AdmissionError(FaultCode.SHAPE_MISMATCH, reason, can_retry=False)


def fork_source(message: Open, sessions: Mapping[SessionId, Session]) -> Session | None:
    """The session of the same connection that a new one begins as a copy of, if any.

    Raises:
        AdmissionError: there is none, or it does not hold so many positions for certain.
    """
    if message.fork_of == NO_SESSION:
        return None
    source = sessions.get(message.fork_of)
    if source is None:
        reason = f"expected a live session to fork, got {message.fork_of}"
        raise AdmissionError(FaultCode.UNKNOWN_SESSION, reason, can_retry=False)
    if message.fork_tokens > source.certain_tokens:
        certain = source.certain_tokens
        reason = f"expected a fork of at most {certain} tokens, got {message.fork_tokens}"
        raise AdmissionError(FaultCode.POSITION_MISMATCH, reason, can_retry=False)
    return source

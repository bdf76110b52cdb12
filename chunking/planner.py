"""The planner's interface, and the plainest planner: chunks of a fixed size."""

from dataclasses import dataclass
from typing import Protocol

from chunking.cost import IDLE, Backlog
from chunking.estimates import UNKNOWN, Estimates

WAIT = 0
"""A planner's answer when the next chunk is better decided after the next reply."""

_WAKE_S = 0.005
"""From a reply's arrival to the next chunk's computation, with room for a busy device."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """How far a prompt is: what is left to send, and what was sent and is not answered yet.

    `num_tokens` is the length of the whole prompt, the part that was cached before included;
    `num_remaining_tokens` is at least 1. In
    `next_reply_s` the oldest chunk in flight is expected to be answered. No chunk may be longer
    than `max_chunk_tokens` (`None`: as long as the prompt); `sent` were the chunks before, where
    they are known.
    """

    num_tokens: int
    num_remaining_tokens: int
    num_in_flight: int = 0
    estimates: Estimates = UNKNOWN
    backlog: Backlog = IDLE
    next_reply_s: float = 0.0
    max_chunk_tokens: int | None = None
    sent: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.num_remaining_tokens <= self.num_tokens:
            expected = f"expected 1 to {self.num_tokens} remaining tokens"
            raise ValueError(f"{expected}, got {self.num_remaining_tokens}")

    def can_wait_with(self, num_tokens: int) -> bool:
        """Whether a chunk of so many tokens, computed after the next reply, finds a busy uplink.

        Then nothing is lost by waiting for what that reply tells of link and cloud.
        """
        times = self.estimates.times()
        if times is None or self.num_in_flight == 0:
            return False
        spare_s = self.backlog.uplink_s - self.next_reply_s
        return spare_s >= 2.0 * times.device.of(num_tokens) + _WAKE_S


class Planner(Protocol):
    """Decides how many prompt tokens go up next; asked again before every chunk."""

    def next_chunk_tokens(self, prefill: Prefill) -> int:
        """A number in `[1, num_remaining_tokens]`; or `WAIT`, if something is in flight."""
        ...


@dataclass(frozen=True, slots=True)
class FixedSizePlanner:
    """Chunks of `chunk_tokens`, the last one shorter; `None` sends the prompt whole."""

    chunk_tokens: int | None

    def __post_init__(self) -> None:
        if self.chunk_tokens is not None and self.chunk_tokens < 1:
            raise ValueError(f"chunk_tokens must be at least 1, got {self.chunk_tokens}")

    def next_chunk_tokens(self, prefill: Prefill) -> int:
        """The same number again, or what is left."""
        if self.chunk_tokens is None:
            return prefill.num_remaining_tokens
        return min(self.chunk_tokens, prefill.num_remaining_tokens)

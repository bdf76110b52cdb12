"""A planner in use: fresh estimates before every answer, and a record of the answers."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from chunking.cost import IDLE, Backlog
from chunking.estimates import Estimates
from chunking.planner import WAIT, Planner, Prefill


@dataclass(frozen=True, slots=True)
class ChunkChoice:
    """A chunk's size, and what was known when it was chosen."""

    num_tokens: int
    estimates: Estimates


@dataclass(frozen=True, slots=True)
class _InFlight:
    num_tokens: int
    chosen_s: float


class ChunkChooser:
    """The `Planner` of one prompt: tells another planner what is known and what is on its way.

    Args:
        planner: Who decides.
        estimates: What is known at the moment of the call.
        clock: Monotonic, in seconds.
        reply_came_s: When the last reply that was taken had come, by the same clock; it may lie
            long before now, for the device computes a chunk and takes replies behind it.
        max_frame_tokens: The longest chunk that is sent, whatever the planner says.
    """

    def __init__(
        self,
        planner: Planner,
        estimates: Callable[[], Estimates],
        clock: Callable[[], float],
        reply_came_s: Callable[[], float],
        max_frame_tokens: int,
    ) -> None:
        self._planner = planner
        self._estimates = estimates
        self._clock = clock
        self._reply_came_s = reply_came_s
        self._max_frame_tokens = max_frame_tokens
        self._in_flight: deque[_InFlight] = deque()
        self._sent: list[int] = []
        self._num_left = 0
        self._sent_s = 0.0
        self._done_s = 0.0
        self.choices: list[ChunkChoice] = []

    def next_chunk_tokens(self, prefill: Prefill) -> int:
        """The planner's answer to this prompt and the state of link and cloud now."""
        now, estimates = self._clock(), self._estimates()
        self._take_answered(prefill.num_in_flight, estimates)
        backlog, next_reply_s = self._backlog(estimates, now)
        known = replace(
            prefill,
            estimates=estimates,
            backlog=backlog,
            next_reply_s=next_reply_s,
            max_chunk_tokens=self._max_frame_tokens,
            sent=self._sent_of(prefill),
        )
        num_tokens = min(self._planner.next_chunk_tokens(known), self._max_frame_tokens)
        if num_tokens != WAIT:
            self._in_flight.append(_InFlight(num_tokens, now))
            self._sent.append(num_tokens)
            self._num_left = prefill.num_remaining_tokens - num_tokens
            self.choices.append(ChunkChoice(num_tokens, estimates))
        return num_tokens

    def _sent_of(self, prefill: Prefill) -> tuple[int, ...]:
        """The chunks of this prompt so far; none once it is sent anew, after a loss."""
        if prefill.num_remaining_tokens != self._num_left:
            self._sent.clear()
        return tuple(self._sent)

    def _take_answered(self, num_in_flight: int, estimates: Estimates) -> None:
        """Forget the chunks that were answered; the last answer tells when stages were free."""
        times = estimates.times()
        while len(self._in_flight) > num_in_flight:
            answered = self._in_flight.popleft()
            if times is not None:
                self._done_s = self._reply_came_s() - times.delay_s
                self._sent_s = self._done_s - times.cloud.of(answered.num_tokens)

    def _backlog(self, estimates: Estimates, now: float) -> tuple[Backlog, float]:
        """How long each stage is still busy, and the time until the oldest chunk's answer."""
        times = estimates.times()
        if times is None or not self._in_flight:
            return IDLE, 0.0
        oldest = self._in_flight[0]
        busy = Backlog(oldest.chosen_s, self._sent_s, self._done_s)
        next_reply_s = 0.0
        for index, chunk in enumerate(self._in_flight):
            busy = replace(busy, device_s=max(busy.device_s, chunk.chosen_s))
            busy = busy.after(chunk.num_tokens, times)
            if index == 0:
                next_reply_s = max(0.0, busy.cloud_s + times.delay_s - now)
        left = Backlog(
            device_s=max(0.0, busy.device_s - now),
            uplink_s=max(0.0, busy.uplink_s - now),
            cloud_s=max(0.0, busy.cloud_s - now),
        )
        return left, next_reply_s

"""One direction of a device's link by TCP segments: a window that grows, a queue that overflows.

The link is `bench.link.shaper.Shaper`, the object that shapes live links too; what is modelled
here is the sender: slow start from ten segments, again after an idle time, congestion avoidance
after the first loss, and each lost segment sent again a round trip later (selective
acknowledgements), or after a timeout when nothing behind it was acknowledged. Acknowledgements
come one delay after a segment, cost no rate, and are not lost.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf

from bench.link.shaper import Shaper
from bench.sim.frames import MSS_BYTES, PACKET_OVERHEAD_BYTES
from bench.sim.kernel import Kernel
from bench.sim.link import MIN_TIMEOUT_S

_INITIAL_WINDOW_BYTES = 10 * MSS_BYTES
"""RFC 6928."""

_LOOK_AGAIN_S = 0.0005
_LEAST_WINDOW_BYTES = 2 * MSS_BYTES
_DECREASE = 0.7
"""CUBIC's (RFC 9438)."""


@dataclass(slots=True)
class _Message:
    num_unsent: int
    deliver: Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Segment:
    number: int
    num_bytes: int
    deliver: Callable[[], None] | None


class TcpChannel:
    """See `bench.sim.link.Channel`. `delay_s` is the way an acknowledgement takes."""

    def __init__(self, kernel: Kernel, shaper: Shaper, delay_s: float) -> None:
        self._kernel = kernel
        self._shaper = shaper
        self._delay_s = delay_s
        self._queue: deque[_Message] = deque()
        self._arrived: dict[int, _Segment] = {}
        self._num_segments = 0
        self._num_delivered = 0
        self._unsent_bytes = 0
        self._in_flight_bytes = 0
        self._window_bytes: float = _INITIAL_WINDOW_BYTES
        self._threshold_bytes = inf
        self._reduced_at = -1
        self._round_trip_s = 2 * delay_s
        self._last_sent_s = -inf

    def wait_s(self, num_unsent_bytes: int) -> float:
        """See `Channel`: of the sender's socket; a queue on the way is not its own."""
        return _LOOK_AGAIN_S if self._unsent_bytes > num_unsent_bytes else 0.0

    def send(self, num_bytes: int, deliver: Callable[[], None]) -> None:
        """See `Channel`."""
        idle_s = self._kernel.now - self._last_sent_s
        if self._in_flight_bytes == 0 and idle_s > self._timeout_s:
            self._window_bytes = min(self._window_bytes, _INITIAL_WINDOW_BYTES)
        self._queue.append(_Message(num_bytes, deliver))
        self._unsent_bytes += num_bytes
        self._pump()

    @property
    def _timeout_s(self) -> float:
        return self._round_trip_s + MIN_TIMEOUT_S

    def _pump(self) -> None:
        while self._queue and self._in_flight_bytes + MSS_BYTES <= self._window_bytes:
            message = self._queue[0]
            num_bytes = min(MSS_BYTES, message.num_unsent)
            message.num_unsent -= num_bytes
            is_last = message.num_unsent == 0
            if is_last:
                self._queue.popleft()
            self._unsent_bytes -= num_bytes
            deliver = message.deliver if is_last else None
            segment = _Segment(self._num_segments, num_bytes, deliver)
            self._num_segments += 1
            self._in_flight_bytes += num_bytes
            self._transmit(segment)

    def _transmit(self, segment: _Segment) -> None:
        now = self._kernel.now
        self._last_sent_s = now
        arrival_s = self._shaper.offer(now, segment.num_bytes + PACKET_OVERHEAD_BYTES)
        if arrival_s is None:
            self._kernel.after(self._round_trip_s, partial(self._notice_loss, segment, now))
            return
        self._kernel.at(arrival_s, partial(self._arrive, segment))
        self._kernel.at(arrival_s + self._delay_s, partial(self._acknowledge, segment, now))

    def _notice_loss(self, segment: _Segment, sent_s: float) -> None:
        """Three segments behind it were acknowledged, or the timer must tell."""
        if self._num_segments - segment.number <= 3 and sent_s == self._last_sent_s:
            rest_s = max(0.0, sent_s + self._timeout_s - self._kernel.now)
            self._kernel.after(rest_s, partial(self._send_again, segment))
        else:
            self._send_again(segment)

    def _send_again(self, segment: _Segment) -> None:
        if segment.number >= self._reduced_at:
            # Once per window, whatever else of it was lost.
            self._reduced_at = self._num_segments
            self._window_bytes = max(_LEAST_WINDOW_BYTES, self._window_bytes * _DECREASE)
            self._threshold_bytes = self._window_bytes
        self._transmit(segment)

    def _arrive(self, segment: _Segment) -> None:
        """Hand out what is whole and has nothing missing before it."""
        self._arrived[segment.number] = segment
        while (whole := self._arrived.pop(self._num_delivered, None)) is not None:
            self._num_delivered += 1
            if whole.deliver is not None:
                whole.deliver()

    def _acknowledge(self, segment: _Segment, sent_s: float) -> None:
        self._round_trip_s = self._kernel.now - sent_s
        was_used = 2 * self._in_flight_bytes > self._window_bytes
        self._in_flight_bytes -= segment.num_bytes
        if was_used:
            # An application that does not use the window does not make it grow (as in Linux).
            share = 1.0
            if self._window_bytes >= self._threshold_bytes:
                share = MSS_BYTES / self._window_bytes
            self._window_bytes += share * segment.num_bytes
        self._pump()

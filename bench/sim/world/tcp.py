"""One direction of a device's link by TCP segments: a window that grows, a queue that overflows.

The link is `bench.link.shaper.Shaper`, the object that shapes live links too; what is modelled
here is the sender: slow start from ten segments, again after a pause, congestion avoidance
after the first loss, and each lost segment sent again a round trip later (selective
acknowledgements), or after a timeout when nothing behind it was acknowledged. Acknowledgements
come one delay after a segment, cost no rate, and are not lost.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from math import inf

from bench.link.shaper import Shaper
from bench.sim.world.link import (
    MIN_TIMEOUT_S,
    MSS_BYTES,
    PACKET_OVERHEAD_BYTES,
    UNSENT_BYTES,
    Arrive,
    Leg,
    websocket_bytes,
)
from process.sockets.memory import way_bytes

_INITIAL_WINDOW_BYTES = 10 * MSS_BYTES
"""RFC 6928."""

_LEAST_WINDOW_BYTES = 2 * MSS_BYTES
_DECREASE = 0.7
"""CUBIC's (RFC 9438)."""


@dataclass(slots=True)
class _Message:
    """A frame on its way out; `last` is the number of its last segment, once that is sent."""

    frame: bytes
    arrive: Arrive
    num_unsent: int
    last: int = -1


@dataclass(frozen=True, slots=True)
class _Segment:
    """Sent at `sent_s`, perhaps again; there at `arrival_s`."""

    number: int
    num_bytes: int
    sent_s: float
    arrival_s: float = inf


class TcpWay:
    """See `bench.sim.world.link.PlainWay`; rate and losses are the shaper's.

    Of the leg count the delay, which is the way that an acknowledgement takes, and the program's
    own times. Segments keep their order, so what came and what was acknowledged meanwhile is
    looked at when it matters: timers ring for the ends of frames, and while a sender waits.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, leg: Leg, shaper: Shaper) -> None:
        self._loop = loop
        self._shaper = shaper
        self._leg = leg
        self._queue: deque[_Message] = deque()
        self._coming: deque[_Message] = deque()
        self._segments: deque[_Segment] = deque()
        self._unacknowledged: deque[_Segment] = deque()
        self._arrived: dict[int, _Segment] = {}
        self._late: deque[_Message] = deque()
        self._num_segments = 0
        self._num_delivered = 0
        self._num_arrived = self._num_partial = 0
        self._unsent_bytes = 0
        self._in_flight_bytes = 0
        self._window_bytes: float = _INITIAL_WINDOW_BYTES
        self._threshold_bytes = inf
        self._reduced_at = -1
        self._round_trip_s = 2 * leg.delay_s
        self._last_sent_s = -inf
        self._is_waiting = False
        self._has_room = asyncio.Event()
        self._has_room.set()

    def carry(self, frame: bytes, arrive: Arrive) -> None:
        self._take_acknowledgements()
        idle_s = self._loop.time() - self._last_sent_s
        is_pause = self._in_flight_bytes == 0 and idle_s > self._timeout_s
        if is_pause and self._leg.is_slow_after_pause:
            self._window_bytes = min(self._window_bytes, _INITIAL_WINDOW_BYTES)
        num_bytes = websocket_bytes(len(frame), self._leg.is_masked)
        self._queue.append(_Message(frame, arrive, num_bytes))
        self._unsent_bytes += num_bytes
        self._has_room.clear()
        self._pump()

    async def until_room(self) -> None:
        # Of the sender's socket; a queue on the way is not its own.
        await self._has_room.wait()

    def num_unsent_bytes(self) -> int:
        return self._unsent_bytes

    def num_arrived_bytes(self) -> int:
        self._take_segments()
        return self._num_arrived + self._num_partial

    @property
    def _timeout_s(self) -> float:
        return self._round_trip_s + MIN_TIMEOUT_S

    def _pump(self) -> None:
        """Send what the window lets go; where it does not, wait for an acknowledgement."""
        while self._queue and self._in_flight_bytes + MSS_BYTES <= self._window_bytes:
            message = self._queue[0]
            num_bytes = min(MSS_BYTES, message.num_unsent)
            number = self._num_segments
            self._num_segments += 1
            message.num_unsent -= num_bytes
            if message.num_unsent == 0:
                message.last = number
                self._coming.append(self._queue.popleft())
            self._unsent_bytes -= num_bytes
            self._in_flight_bytes += num_bytes
            self._transmit(number, num_bytes, is_last=message.num_unsent == 0)
        if self._unsent_bytes <= UNSENT_BYTES:
            self._has_room.set()
        if self._queue and self._unacknowledged and not self._is_waiting:
            self._is_waiting = True
            due_s = self._unacknowledged[0].arrival_s + self._leg.delay_s
            self._loop.call_at(due_s, self._on_acknowledgement)

    def _transmit(self, number: int, num_bytes: int, is_last: bool) -> None:
        now = self._loop.time()
        self._last_sent_s = now
        arrival_s = self._shaper.offer(now, num_bytes + PACKET_OVERHEAD_BYTES)
        if arrival_s is None:
            lost = _Segment(number, num_bytes, now)
            self._loop.call_later(self._round_trip_s, self._notice_loss, lost)
            return
        segment = _Segment(number, num_bytes, now, arrival_s)
        self._segments.append(segment)
        self._unacknowledged.append(segment)
        if is_last:
            self._loop.call_at(arrival_s, self._take_segments)

    def _notice_loss(self, lost: _Segment) -> None:
        """Three segments behind it were acknowledged, or the timer must tell."""
        self._take_acknowledgements()
        if self._num_segments - lost.number <= 3 and lost.sent_s == self._last_sent_s:
            rest_s = max(0.0, lost.sent_s + self._timeout_s - self._loop.time())
            self._loop.call_later(rest_s, self._send_again, lost)
        else:
            self._send_again(lost)

    def _send_again(self, lost: _Segment) -> None:
        self._take_acknowledgements()
        if lost.number >= self._reduced_at:
            # Once per window, whatever else of it was lost.
            self._reduced_at = self._num_segments
            self._window_bytes = max(_LEAST_WINDOW_BYTES, self._window_bytes * _DECREASE)
            self._threshold_bytes = self._window_bytes
        self._transmit(lost.number, lost.num_bytes, is_last=True)
        self._pump()

    def _take_segments(self) -> None:
        """Hand out what is whole and has nothing missing before it."""
        now = self._loop.time()
        while self._segments and self._segments[0].arrival_s <= now:
            segment = self._segments.popleft()
            self._arrived[segment.number] = segment
        while (whole := self._arrived.pop(self._num_delivered, None)) is not None:
            self._num_delivered += 1
            self._num_partial += whole.num_bytes
            if self._coming and self._coming[0].last == whole.number:
                self._whole(self._coming.popleft())

    def _whole(self, message: _Message) -> None:
        self._num_arrived += way_bytes(message.frame)
        self._num_partial = 0
        if not self._leg.late_s:
            message.arrive(message.frame)
            return
        self._late.append(message)
        self._loop.call_later(self._leg.late_s, self._give)

    def _give(self) -> None:
        message = self._late.popleft()
        message.arrive(message.frame)

    def _on_acknowledgement(self) -> None:
        self._is_waiting = False
        self._take_acknowledgements()
        self._pump()

    def _take_acknowledgements(self) -> None:
        now = self._loop.time()
        while self._unacknowledged:
            segment = self._unacknowledged[0]
            came_s = segment.arrival_s + self._leg.delay_s
            if came_s > now:
                return
            self._unacknowledged.popleft()
            self._acknowledge(segment, came_s)

    def _acknowledge(self, segment: _Segment, came_s: float) -> None:
        self._round_trip_s = came_s - segment.sent_s
        was_used = 2 * self._in_flight_bytes > self._window_bytes
        self._in_flight_bytes -= segment.num_bytes
        if was_used:
            # An application that does not use the window does not make it grow (as in Linux).
            share = 1.0
            if self._window_bytes >= self._threshold_bytes:
                share = MSS_BYTES / self._window_bytes
            self._window_bytes += share * segment.num_bytes

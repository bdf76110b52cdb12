"""Rates and delay of a link, and the cloud's queue, from when frames go and replies come.

Handing bytes to a socket takes no time that tells of the link, since kernels buffer them. What
tells is when replies come: less the cloud's own queue and compute times, a reply's arrival is the
moment its frame had reached the cloud, shifted by the round trip of an empty link. Frames that
queue behind one another reach it one transfer apart, whatever that shift is.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from math import inf
from statistics import median

from chunking.averages import Average, MovingAverage, RobustAverage

_MAX_TRACKED_FRAMES = 256
_DELAY_WINDOW = 16
_MIN_RATE_BYTES = 4096
"""Shorter frames take no longer than the jitter of their arrival, and say nothing of the rate."""

_MAX_TRANSFER_SHARE = 0.25
"""Of a frame's whole trip, if it is to tell the delay."""

_MIN_JITTERS = 4.0
"""A short frame's trip must exceed the delay by so many jitters to lower a known rate."""

_MIN_FIRST_SHARE = 0.1
"""Of the delay: a first frame's transfer is not seen more finely, and none is infinitely fast."""

_MIN_S_PER_BYTE = 1e-12

_MIN_SPAN_SHARE = 0.01
"""Of the delay: frames that came within less came at once, behind a segment that was sent again."""

_LEAST_SPAN_SHARE = 0.25
"""Of the delay: a transfer is taken over so many queued frames that it is longer, since a segment
that was sent again holds frames up for a round trip, and those behind it come with them."""

_MAX_TRAIN = 32
"""Frames looked back at; these take far longer than a delay together, or the link is too fast for
its rate to matter."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A reply as it came: its size, and the cloud's own times."""

    num_bytes: int
    queue_s: float
    compute_s: float


@dataclass(frozen=True, slots=True)
class _Sent:
    number: int
    num_bytes: int
    sent_s: float


@dataclass(frozen=True, slots=True)
class _Arrival:
    """When a frame had reached the cloud and when it was answered, both one delay late, its bytes,
    and whether it had queued behind the one before it."""

    arrived_s: float
    answered_s: float
    num_bytes: int
    has_queued: bool


class LinkEstimator:
    """For one link, over all its sessions. Frames are named by any key of the caller's.

    `is_robust` chooses how to average and what to believe: the first frame after an idle time
    meets a slow start and an idle radio, so it may raise a known rate and never lowers it; nor does
    a short frame that was late by less than the delay, or by no more than trips vary; and the delay
    is the least of the last few. Without it, every frame counts, smoothed as in the paper.
    """

    def __init__(self, is_robust: bool = True) -> None:
        self._is_robust = is_robust
        self._uplink_s_per_byte = self._average()
        self._downlink_s_per_byte = self._average()
        self._queue_s = self._average()
        self._paper_delay_s = MovingAverage()
        self._delays_s: deque[float] = deque(maxlen=_DELAY_WINDOW)
        self._sent: dict[Hashable, _Sent] = {}
        self._arrivals: dict[int, _Arrival] = {}
        self._num_sent = 0
        self._has_queued_sample = False

    @property
    def uplink_bytes_per_s(self) -> float | None:
        """What the link carries to the cloud."""
        return _rate(self._uplink_s_per_byte)

    @property
    def downlink_bytes_per_s(self) -> float | None:
        """What it carries back; unknown while replies are small."""
        return _rate(self._downlink_s_per_byte)

    @property
    def delay_s(self) -> float | None:
        """The round trip of an empty link."""
        if self._is_robust:
            return min(self._delays_s, default=None)
        return self._paper_delay_s.value

    @property
    def cloud_queue_s(self) -> float | None:
        """How long a frame waits behind other devices' work."""
        return self._queue_s.value

    def on_round_trip(self, seconds: float) -> None:
        """A message of a few bytes was answered at once."""
        if 0.0 <= seconds < float("inf"):
            self._delays_s.append(seconds)
            self._paper_delay_s.add(seconds)

    def on_sent(self, key: Hashable, num_bytes: int, now: float) -> None:
        """A frame is handed to the socket, behind all that were before it."""
        if len(self._sent) >= _MAX_TRACKED_FRAMES:
            del self._sent[next(iter(self._sent))]
        self._num_sent += 1
        self._sent.pop(key, None)
        self._sent[key] = _Sent(self._num_sent, num_bytes, now)

    def on_reply(self, key: Hashable, measured: Measured, now: float) -> None:
        """A frame's reply is here."""
        sent = self._sent.pop(key, None)
        if sent is None:
            return
        cloud_s = measured.queue_s + measured.compute_s
        download_s = measured.num_bytes * (self._downlink_s_per_byte.value or 0.0)
        arrived_s = now - cloud_s - download_s
        starts_s = sent.sent_s + (self.delay_s or 0.0)
        previous = self._arrivals.get(sent.number - 1)
        has_queued = previous is not None and previous.arrived_s >= starts_s
        self._remember(sent.number, _Arrival(arrived_s, now, sent.num_bytes, has_queued))
        if previous is None and sent.number > 1:
            return
        own_wait_s = 0.0 if previous is None else previous.answered_s - arrived_s
        self._queue_s.add(max(0.0, measured.queue_s - max(0.0, own_wait_s)))
        if has_queued:
            self._add_queued(sent)
        else:
            self._add_alone(sent, measured, arrived_s)

    def on_lost(self) -> None:
        """The socket is gone; no frame in flight will be answered."""
        self._sent.clear()
        self._arrivals.clear()
        # A new socket's first frame has no predecessor.
        self._num_sent = 0

    def _add_queued(self, sent: _Sent) -> None:
        """The frame was on the link right behind another."""
        num_bytes, transfer_s = self._transfer(sent.number)
        if self._is_robust and transfer_s < _MIN_SPAN_SHARE * (self.delay_s or 0.0):
            return
        if sent.num_bytes >= _MIN_RATE_BYTES:
            sample = max(_MIN_S_PER_BYTE, transfer_s / num_bytes)
            if self._is_robust and not self._has_queued_sample:
                # What single frames had told was a first guess.
                self._uplink_s_per_byte = self._average()
            self._has_queued_sample = True
            self._uplink_s_per_byte.add(sample)

    def _transfer(self, newest: int) -> tuple[int, float]:
        """Bytes, and the time they took, of this frame and those that queued before it.

        Of as few as tell something: see `_LEAST_SPAN_SHARE`.
        """
        least_s = _LEAST_SPAN_SHARE * (self.delay_s or 0.0) if self._is_robust else -inf
        num_bytes, span_s = 0, 0.0
        for number in range(newest, newest - _MAX_TRAIN, -1):
            frame, before = self._arrivals[number], self._arrivals.get(number - 1)
            if before is None or not frame.has_queued:
                break
            num_bytes += frame.num_bytes
            span_s = self._arrivals[newest].arrived_s - before.arrived_s
            if span_s >= least_s:
                break
        return num_bytes, span_s

    def _add_alone(self, sent: _Sent, measured: Measured, arrived_s: float) -> None:
        """The link was idle before the frame: delay, upload and download are one sum."""
        trip_s = arrived_s - sent.sent_s
        known = self._uplink_s_per_byte.value
        if known is not None:
            upload_s = known * sent.num_bytes
            if upload_s <= _MAX_TRANSFER_SHARE * trip_s and measured.num_bytes < _MIN_RATE_BYTES:
                self.on_round_trip(trip_s - upload_s)
        if self.delay_s is None:
            return
        if sent.num_bytes >= _MIN_RATE_BYTES:
            transfer_s = trip_s - self.delay_s
            if self._is_robust and known is None:
                transfer_s = max(transfer_s, _MIN_FIRST_SHARE * self.delay_s)
            sample = max(_MIN_S_PER_BYTE, transfer_s / sent.num_bytes)
            is_lower = known is not None and sample > known
            if not (self._is_robust and is_lower) or self._can_lower(trip_s, sent.num_bytes):
                self._uplink_s_per_byte.add(sample)
        elif known is not None and measured.num_bytes >= _MIN_RATE_BYTES:
            self._add_download(measured, trip_s - self.delay_s - known * sent.num_bytes)

    def _can_lower(self, trip_s: float, num_bytes: int) -> bool:
        """Whether a single frame's trip says that the known rate is too high.

        A device slower than its link has single frames alone, most of them verifications: a few
        kilobytes whose transfer is nothing beside how late a busy machine takes their replies.
        """
        upload_s = num_bytes * (self._uplink_s_per_byte.value or 0.0)
        delay_s = min(self._delays_s)
        jitter_s = median(self._delays_s) - delay_s
        is_late = trip_s - delay_s >= max(delay_s, _MIN_JITTERS * jitter_s)
        is_long = upload_s > _MAX_TRANSFER_SHARE * trip_s
        return not self._has_queued_sample and (is_long or is_late)

    def _add_download(self, measured: Measured, residual_s: float) -> None:
        """What is left of a trip beyond the download already assumed in it."""
        assumed_s = measured.num_bytes * (self._downlink_s_per_byte.value or 0.0)
        sample = (residual_s + assumed_s) / measured.num_bytes
        self._downlink_s_per_byte.add(max(_MIN_S_PER_BYTE, sample))

    def _remember(self, number: int, arrival: _Arrival) -> None:
        if len(self._arrivals) >= _MAX_TRACKED_FRAMES:
            del self._arrivals[next(iter(self._arrivals))]
        self._arrivals[number] = arrival

    def _average(self) -> Average:
        return RobustAverage() if self._is_robust else MovingAverage()


def _rate(s_per_byte: Average) -> float | None:
    return None if s_per_byte.value is None else 1.0 / max(_MIN_S_PER_BYTE, s_per_byte.value)

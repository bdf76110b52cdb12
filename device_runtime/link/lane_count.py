"""How many further sockets a connection to the cloud is worth, and when they are opened."""

import math
from dataclasses import dataclass

from chunking.ramp import ramp_s
from process.sockets.windows import FIRST_WINDOW_BYTES
from wire.limits import MAX_LANES

LEAST_ROUND_TRIP_S = 0.003
"""On a shorter way a slow start takes no longer than the cloud needs for a step."""

_LANES_AT_FIRST = 4
"""While nothing is known of the link's rate."""

_HOLDS = 1.35
"""Times the bandwidth-delay product: what may be under way. The buffer before a link commonly holds
one such product, with headers, and after a pause nothing has left it but what the link carried."""

_CHEAP_LANES = 16
"""So many are had for the asking; more must be worth their handshakes and pings."""

_MOST_RAMP = 0.15
"""Of a warm upload's time: a slow start that adds no more is not worth more lanes."""

_BURST_PAUSE_S = 1.0
"""A burst ends with a pause of so long, answered or not: some answers never come."""

_LATELY_S = 600.0

_AT_ONCE = 8
"""Lanes that are opened at the same time: each is a handshake, of TLS too, and a cloud that takes
no more says so to so many at most."""

_REST_S = 30.0
_LONGEST_REST_S = 3600.0
"""After a lane that could not be opened, twice as long each time that none could be, up to this."""

_FIRST_DISTRUST_S = 30.0
_LONGEST_DISTRUST_S = 3600.0


@dataclass(frozen=True, slots=True)
class LinkSize:
    """What is known of a link."""

    round_trip_s: float | None = None
    """Of the empty link."""
    uplink_bytes_per_s: float | None = None

    @property
    def num_bytes(self) -> float:
        """What should be under way at once; infinite while it is not known."""
        if self.round_trip_s is None or self.uplink_bytes_per_s is None:
            return math.inf
        return _HOLDS * self.product_bytes

    @property
    def product_bytes(self) -> int:
        """The bandwidth-delay product; 0 while it is not known."""
        return int((self.round_trip_s or 0.0) * (self.uplink_bytes_per_s or 0.0))


def useful_lanes(link: LinkSize, frame_bytes: int, burst_bytes: int = 0) -> int:
    """Lanes whose first windows together hold what is sent after a pause.

    Up to 16 hold the longest frame that may be sent, or the link if that is less. More are for what
    is sent indeed, and as few of them as leave a slow start a seventh of a warm upload's time.

    Args:
        link: What is known of it.
        frame_bytes: Of the longest frame that may be sent.
        burst_bytes: The most that was sent lately at a stretch (see `Bursts`).
    """
    if link.round_trip_s is None or link.round_trip_s < LEAST_ROUND_TRIP_S:
        return 0
    if math.isinf(link.num_bytes):
        return _LANES_AT_FIRST
    filled = math.ceil(min(frame_bytes, link.num_bytes) / FIRST_WINDOW_BYTES)
    cheap = max(1, min(_CHEAP_LANES, filled))
    num_bytes = int(min(burst_bytes, link.num_bytes))
    return next(
        (count for count in range(cheap, MAX_LANES) if _starts_fast(link, num_bytes, count)),
        MAX_LANES,
    )


def _starts_fast(link: LinkSize, num_bytes: int, num_lanes: int) -> bool:
    """Whether so many bytes after a pause take hardly longer than on a warm link."""
    assert link.round_trip_s is not None
    assert link.uplink_bytes_per_s is not None
    warm_s = num_bytes / link.uplink_bytes_per_s + link.round_trip_s / 2
    window_bytes = num_lanes * FIRST_WINDOW_BYTES
    added_s = ramp_s(num_bytes, link.uplink_bytes_per_s, link.round_trip_s, window_bytes)
    return added_s <= _MOST_RAMP * warm_s


class Bursts:
    """How much is sent from one pause to the next, or before all of it is answered."""

    def __init__(self) -> None:
        self._num_bytes = 0
        self._last_s = -math.inf
        self._longest = 0
        self._longest_s = -math.inf

    def sent(self, num_bytes: int, now: float, *, is_all_answered: bool) -> None:
        """So many bytes were handed over, with what was sent before answered or not."""
        if is_all_answered or now - self._last_s > _BURST_PAUSE_S:
            self._num_bytes = 0
        self._num_bytes += num_bytes
        self._last_s = now
        if self._num_bytes >= self.longest(now):
            self._longest, self._longest_s = self._num_bytes, now

    def longest(self, now: float) -> int:
        """Bytes of the longest burst of the last ten minutes; 0 if there was none."""
        return self._longest if now - self._longest_s <= _LATELY_S else 0


class Openings:
    """When lanes are opened, and how many at once.

    After one that failed there is a rest, in which only those that were there before are made anew;
    then one lane asks whether more are taken by now, and with each that is taken twice as many.
    """

    def __init__(self) -> None:
        self._num_taken = 0
        """Lanes that there were at once since the last failure."""
        self._num_failures = 0
        """In a row."""
        self._num_at_once = _AT_ONCE
        self._rests_until_s = -math.inf

    def most(self, num_lanes: int, now: float) -> int:
        """How many may be opened at the same time beside so many that are open."""
        if now < self._rests_until_s:
            return min(_AT_ONCE, max(0, self._num_taken - num_lanes))
        return self._num_at_once

    def opened(self, num_lanes: int, now: float) -> None:
        """One was opened, and now there are so many."""
        if num_lanes > self._num_taken:
            self._num_taken = num_lanes
            if now >= self._rests_until_s:
                self._num_failures = 0
                self._num_at_once = min(_AT_ONCE, 2 * self._num_at_once)

    def failed(self, num_lanes: int, now: float) -> None:
        """One was refused, or broke; so many are left."""
        self._num_taken = num_lanes
        self._num_at_once = 1
        if now >= self._rests_until_s:
            rest_s = _REST_S * 2.0 ** min(16, self._num_failures)
            self._rests_until_s = now + min(_LONGEST_REST_S, rest_s)
            self._num_failures += 1


class LaneTrust:
    """Whether lanes are made at all: not for a while after one broke under what it carried.

    What stands between may take one connection and cut others off. Each time the while is twice as
    long, up to an hour.
    """

    def __init__(self) -> None:
        self._distrust_s = _FIRST_DISTRUST_S
        self._until_s = -math.inf

    def broke(self, now: float) -> None:
        """A lane broke, and the connection with it."""
        self._until_s = now + self._distrust_s
        self._distrust_s = min(_LONGEST_DISTRUST_S, 2.0 * self._distrust_s)

    def allows(self, now: float) -> bool:
        """Whether lanes may be made now."""
        return now >= self._until_s

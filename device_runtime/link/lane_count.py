"""How many further sockets a connection to the cloud is worth, and how fast bytes go to them."""

import math
from dataclasses import dataclass

from process.sockets.windows import FIRST_WINDOW_SEGMENTS, SEGMENT_BYTES
from wire.limits import MAX_LANES

LEAST_ROUND_TRIP_S = 0.003
"""On a shorter way a slow start takes no longer than the cloud needs for a step."""

_LANES_AT_FIRST = 4
"""While nothing is known of the link's rate."""

_HOLDS = 1.5
"""Times the bandwidth-delay product: what may be under way. The buffer before a link commonly holds
one such product."""

_PACE = 2.0
"""Times the known rate: what comes faster only lands in that buffer, which so is never more than
three quarters full. A rate that was taken for too low does not keep itself low."""

_AT_ONCE_S = 0.004
"""Of the pace, in one piece; and as much is caught up after a late look."""

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


def useful_lanes(link: LinkSize, frame_bytes: int) -> int:
    """Lanes whose first windows together hold the longest frame, or the link if that is less."""
    if link.round_trip_s is None or link.round_trip_s < LEAST_ROUND_TRIP_S:
        return 0
    if math.isinf(link.num_bytes):
        return _LANES_AT_FIRST
    first_window_bytes = FIRST_WINDOW_SEGMENTS * SEGMENT_BYTES
    return max(1, min(MAX_LANES, math.ceil(min(frame_bytes, link.num_bytes) / first_window_bytes)))


class Pace:
    """Lets bytes go no faster than a link is known to carry them, and twice as fast."""

    def __init__(self) -> None:
        self._free_s = -math.inf

    def most_bytes(self, link: LinkSize, now: float) -> int | None:
        """What may go now; 0 while it is too early, None for any number."""
        if link.uplink_bytes_per_s is None:
            return None
        at_once = _PACE * link.uplink_bytes_per_s * _AT_ONCE_S
        least_bytes = FIRST_WINDOW_SEGMENTS * SEGMENT_BYTES
        return 0 if now < self._free_s else max(least_bytes, int(at_once))

    def sent(self, num_bytes: int, link: LinkSize, now: float) -> None:
        """So many bytes were let go."""
        if link.uplink_bytes_per_s is not None:
            seconds = num_bytes / (_PACE * link.uplink_bytes_per_s)
            self._free_s = max(self._free_s, now - _AT_ONCE_S) + seconds


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

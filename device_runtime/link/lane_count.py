"""How many further sockets a connection to the cloud is worth."""

import math
from dataclasses import dataclass

from process.sockets.windows import FIRST_WINDOW_SEGMENTS, SEGMENT_BYTES
from wire.limits import MAX_LANES

LEAST_ROUND_TRIP_S = 0.003
"""On a shorter way a slow start takes no longer than the cloud needs for a step."""

_LANES_AT_FIRST = 4
"""While nothing is known of the link's rate."""

_HOLDS = 1.5
"""Of the bandwidth-delay product: what may be under way. A link's buffer commonly holds as much as
the product again; a rate that is estimated too low must not keep itself low."""

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
        return _HOLDS * self.round_trip_s * self.uplink_bytes_per_s


def useful_lanes(link: LinkSize, frame_bytes: int) -> int:
    """Lanes whose first windows together hold the longest frame, or the link if that is less."""
    if link.round_trip_s is None or link.round_trip_s < LEAST_ROUND_TRIP_S:
        return 0
    if math.isinf(link.num_bytes):
        return _LANES_AT_FIRST
    first_window_bytes = FIRST_WINDOW_SEGMENTS * SEGMENT_BYTES
    return max(1, min(MAX_LANES, math.ceil(min(frame_bytes, link.num_bytes) / first_window_bytes)))


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

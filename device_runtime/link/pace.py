"""How fast bytes go to a connection's lanes: faster than a link carries them, but not much."""

import math

from device_runtime.link.lane_count import LinkSize
from process.sockets.windows import FIRST_WINDOW_BYTES

_PACE = 2.0
"""Times the known rate: what comes faster only lands in the buffer before the link. A rate that was
taken for too low does not keep itself low."""

_AT_ONCE_S = 0.004
_AT_ONCE_SHARE = 0.1
"""Of the pace, in one piece, in time and of a round trip; and as much is caught up after a late
look. Behind a longer piece the buffer before a short link has no room."""


class Pace:
    """Lets bytes go no faster than a link is known to carry them, and twice as fast."""

    def __init__(self) -> None:
        self._free_s = -math.inf

    def most_bytes(self, link: LinkSize, now: float) -> int | None:
        """What may go now; 0 while it is too early, None for any number."""
        if link.uplink_bytes_per_s is None:
            return None
        at_once = _PACE * link.uplink_bytes_per_s * _at_once_s(link)
        return 0 if now < self._free_s else max(FIRST_WINDOW_BYTES, int(at_once))

    def sent(self, num_bytes: int, link: LinkSize, now: float) -> None:
        """So many bytes were let go."""
        if link.uplink_bytes_per_s is not None:
            seconds = num_bytes / (_PACE * link.uplink_bytes_per_s)
            self._free_s = max(self._free_s, now - _at_once_s(link)) + seconds


def _at_once_s(link: LinkSize) -> float:
    if link.round_trip_s is None:
        return _AT_ONCE_S
    return min(_AT_ONCE_S, _AT_ONCE_SHARE * link.round_trip_s)

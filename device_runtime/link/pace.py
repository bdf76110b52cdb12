"""How fast bytes go to a connection's lanes: faster than a link carries them, but not much."""

import math

from device_runtime.link.lane_count import LinkSize
from process.sockets.windows import FIRST_WINDOW_BYTES

_PACE = 2.0
"""Times the known rate: what comes faster only lands in the buffer before the link. A rate that was
taken for too low does not keep itself low."""

_AT_ONCE_S = 0.004
"""Of the pace, in one piece; and as much is caught up after a late look."""


class Pace:
    """Lets bytes go no faster than a link is known to carry them, and twice as fast."""

    def __init__(self) -> None:
        self._free_s = -math.inf

    def most_bytes(self, link: LinkSize, now: float) -> int | None:
        """What may go now; 0 while it is too early, None for any number."""
        if link.uplink_bytes_per_s is None:
            return None
        at_once = _PACE * link.uplink_bytes_per_s * _AT_ONCE_S
        return 0 if now < self._free_s else max(FIRST_WINDOW_BYTES, int(at_once))

    def sent(self, num_bytes: int, link: LinkSize, now: float) -> None:
        """So many bytes were let go."""
        if link.uplink_bytes_per_s is not None:
            seconds = num_bytes / (_PACE * link.uplink_bytes_per_s)
            self._free_s = max(self._free_s, now - _AT_ONCE_S) + seconds

"""What a link carries, from when frames came: pure arithmetic."""

from collections.abc import Sequence
from math import inf

from chunking.ramp import INITIAL_WINDOW_BYTES, ramp_s

_MOST_BYTES_PER_S = 1.25e10
"""100 Gbit/s: what takes no time that can be measured is not said to be faster."""


def train_bytes_per_s(arrivals: Sequence[tuple[float, int]]) -> float | None:
    """The rate at which frames came that were sent right behind one another.

    Of each frame the time at which it had come whole, and its bytes; the first one only begins.
    None: fewer than two frames, or they came at once.
    """
    if len(arrivals) < 2:
        return None
    seconds = arrivals[-1][0] - arrivals[0][0]
    num_bytes = sum(size for _, size in arrivals[1:])
    return num_bytes / seconds if seconds > num_bytes / _MOST_BYTES_PER_S else None


def transfer_s(num_bytes: int, bytes_per_s: float, round_trip_s: float) -> float:
    """Seconds from the first byte's departure to the last one's, on a connection that was idle."""
    added_s = ramp_s(num_bytes, bytes_per_s, round_trip_s, INITIAL_WINDOW_BYTES)
    return num_bytes / bytes_per_s + added_s


def bytes_per_s_of_transfer(num_bytes: int, seconds: float, round_trip_s: float) -> float | None:
    """The rate with which `transfer_s` takes so long; None: no rate that a link has would."""
    low, high = 1.0, _MOST_BYTES_PER_S
    if not 0.0 < seconds < inf or transfer_s(num_bytes, high, round_trip_s) >= seconds:
        return None
    for _ in range(80):
        middle = (low * high) ** 0.5
        if transfer_s(num_bytes, middle, round_trip_s) > seconds:
            low = middle
        else:
            high = middle
    return high

"""How much a TCP connection lets go now, and which of several takes the next bytes.

A sender may have one congestion window under way. A connection that paused for longer than its
retransmission timeout begins again with half of its window for each such timeout, down to the
first window (RFC 2861 as Linux has it). So of several connections that paused, each lets one first
window go, and their first windows add up; while of several warm ones a single one fills the link,
and the windows of all together would overflow the buffer before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

SEGMENT_BYTES = 1448
"""Of data in an Ethernet frame, with IPv4 and TCP's time stamps."""

FIRST_WINDOW_SEGMENTS = 10
"""RFC 6928; Linux since 2.6.39."""

FIRST_WINDOW_BYTES = FIRST_WINDOW_SEGMENTS * SEGMENT_BYTES

SLACK_S = 0.002
"""What a connection sends in so long may wait in it: whoever deals looks again after less."""

UNKNOWN_BYTES = 65_536
"""The window of a connection of which the system does not tell."""

_MOST_HALVINGS = 32


@dataclass(frozen=True, slots=True)
class Window:
    """What one connection lets go."""

    num_bytes: int
    """That may be under way."""
    num_under_way: int
    """Handed over and not acknowledged, what waits in this process or the system included."""
    round_trip_s: float = 0.0
    """As TCP has smoothed it; 0 where it is not known."""

    @property
    def room_bytes(self) -> int:
        """What it takes now: the rest of the window, and what is acknowledged until the next look.

        That is a share of what is under way. What else is handed over above the window waits for a
        whole round trip, which on a connection that rests is one segment already.
        """
        share = min(1.0, SLACK_S / self.round_trip_s) if self.round_trip_s > 0 else 0.0
        # A part of a segment would wait as long.
        slack_segments = int(min(self.num_bytes, self.num_under_way) * share) // SEGMENT_BYTES
        return self.num_bytes + slack_segments * SEGMENT_BYTES - self.num_under_way


def after_pause(num_segments: int, paused_s: float, timeout_s: float) -> int:
    """The window, in segments, of a connection that sent nothing for so long.

    Args:
        num_segments: Its window before, as the system tells it until something is sent.
        paused_s: Since it last sent something.
        timeout_s: Its retransmission timeout.

    Source: Linux's `tcp_cwnd_restart`.
    """
    least = min(num_segments, FIRST_WINDOW_SEGMENTS)
    if timeout_s <= 0 or paused_s <= timeout_s:
        return num_segments
    return max(least, num_segments >> min(_MOST_HALVINGS, int(paused_s / timeout_s)))


def next_taker(
    windows: Sequence[Window], least_bytes: int, most_bytes: float
) -> tuple[int, int] | None:
    """Which connection takes the next bytes, and how many at most; None while none should.

    Args:
        windows: Of the connections, in any order.
        least_bytes: Less room than this is not worth a message, unless it is a whole window.
        most_bytes: What the link is known to hold, infinite where nothing is known. More is under
            way only if the largest window alone allows it.
    """
    if not windows:
        return None
    taker = max(range(len(windows)), key=lambda index: windows[index].room_bytes)
    largest = max(window.num_bytes for window in windows)
    num_under_way = sum(window.num_under_way for window in windows)
    left_bytes = max(most_bytes, largest + windows[taker].room_bytes - windows[taker].num_bytes)
    room_bytes = int(min(windows[taker].room_bytes, left_bytes - num_under_way))
    is_worth_it = room_bytes >= max(1, min(least_bytes, windows[taker].num_bytes))
    return (taker, room_bytes) if is_worth_it else None

"""Whether the far end of a socket still lives, by what comes from it and what it takes.

A ping waits behind a chunk that is being written: 4 MB take 7 s at 5 Mbit/s. So silence is counted
from the last byte that came, or, until a ping has reached the far end, from the last byte that
went on its way there. What a far end takes without ever answering a ping is no sign of life: the
kernel of a frozen process takes bytes too.
"""

from dataclasses import dataclass
from enum import Enum

_PING_SHARE = 0.35
"""Of the silence that is borne, after which the far end is asked for a sign of life."""

_ANSWER_SHARE = 0.5
"""Of the same, in which a ping that has nothing before it is answered."""

LOOKS = 10
"""So often within that silence should be looked; the shares above leave one look to spare."""


class Beat(Enum):
    """What to do now."""

    CALM = "calm"
    PING = "ping"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes since the socket was opened."""

    num_received: int
    """What has come."""
    num_delivered: int
    """What has reached the far end, of what was written."""
    num_written: int
    """What was handed to the socket, headers included."""


class Pulse:
    """Told of progress `LOOKS` times within `silence_s`. `now` is monotonic, in seconds."""

    def __init__(self, silence_s: float, now: float) -> None:
        self._silence_s = silence_s
        self._looked_s = now
        self._since_s = now
        """The last sign of life, or when one was asked for."""
        self._num_received = 0
        self._num_delivered = 0
        self._ping_end: int | None = None

    def pinged(self, num_written: int) -> None:
        """A ping is the last of so many bytes that were written."""
        self._ping_end = num_written

    def look(self, progress: Progress, now: float) -> Beat:
        """What this side should do about the other."""
        # A side that did not run for so long can say nothing of the other: it asks.
        has_slept = now - self._looked_s > self._silence_s / 2
        self._looked_s = now
        num_before, self._num_received = self._num_received, progress.num_received
        if has_slept or progress.num_received > num_before:
            self._ping_end, self._since_s = None, now
        if self._ping_end is None:
            return self._ask_in_time(progress, now, has_slept)
        num_delivered = min(progress.num_delivered, self._ping_end)
        if num_delivered > self._num_delivered:
            self._num_delivered, self._since_s = num_delivered, now
        is_over = now - self._since_s >= _ANSWER_SHARE * self._silence_s
        return Beat.LOST if is_over else Beat.CALM

    def _ask_in_time(self, progress: Progress, now: float, has_slept: bool) -> Beat:
        self._num_delivered = progress.num_delivered
        if not has_slept and now - self._since_s < _PING_SHARE * self._silence_s:
            return Beat.CALM
        self._since_s = now
        return Beat.PING

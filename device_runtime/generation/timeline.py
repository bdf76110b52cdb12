"""When device, link and cloud did what for one generation, kept only for who asks."""

from dataclasses import dataclass
from typing import Literal

Lane = Literal["device", "uplink", "cloud", "downlink"]
Work = Literal["prefill", "draft", "verify", "ahead"]


@dataclass(frozen=True, slots=True)
class Span:
    """One bar; times in seconds since the generation was called. A bar of work is of so many
    tokens: rows of a frame, drafted ones, chosen ones."""

    lane: Lane
    what: Work
    start_s: float
    end_s: float
    num_tokens: int


@dataclass(slots=True)
class _Trip:
    """A frame's way to the cloud and back; the cloud measured `queue_s` and `compute_s`."""

    what: Work
    num_tokens: int
    sent_s: float
    answered_s: float | None = None
    queue_s: float = 0.0
    compute_s: float = 0.0


class Timeline:
    """Takes times of a monotonic clock. `begun_s` None: nothing is kept."""

    def __init__(self, begun_s: float | None = None) -> None:
        self._begun_s = begun_s
        self._work: list[Span] = []
        self._trips: dict[tuple[int, int], _Trip] = {}

    @property
    def is_kept(self) -> bool:
        """Whether someone asked for it."""
        return self._begun_s is not None

    def worked(self, what: Work, started_s: float, ended_s: float, num_tokens: int) -> None:
        """The device was busy."""
        if self._begun_s is not None:
            start_s, end_s = started_s - self._begun_s, ended_s - self._begun_s
            self._work.append(Span("device", what, start_s, end_s, num_tokens))

    def sent(self, frame: tuple[int, int], what: Work, num_tokens: int, now: float) -> None:
        """The frame of this epoch and position was handed to the link."""
        if self._begun_s is not None:
            self._trips[frame] = _Trip(what, num_tokens, now - self._begun_s)

    def answered(
        self, frame: tuple[int, int], queue_s: float, compute_s: float, now: float
    ) -> None:
        """Its reply came at `now`, with what the cloud measured."""
        trip = self._trips.get(frame)
        if self._begun_s is not None and trip is not None:
            trip.answered_s = now - self._begun_s
            trip.queue_s, trip.compute_s = queue_s, compute_s

    def spans(self, link_delay_s: float | None) -> list[Span]:
        """All bars, by their beginning.

        The device has one clock and sees only when a frame left and when its reply came. The way
        down is taken to be half of `link_delay_s`, the least round trip; what is left of the time
        that the cloud did not use is the way up. A frame begins its way up behind the one before.
        """
        found = list(self._work)
        free_s = 0.0
        for trip in self._trips.values():
            if trip.answered_s is None:
                continue
            way_s = max(0.0, trip.answered_s - trip.sent_s - trip.queue_s - trip.compute_s)
            down_s = way_s / 2 if link_delay_s is None else min(way_s, link_delay_s / 2)
            computed_s = trip.answered_s - down_s
            begun_s = computed_s - trip.compute_s
            arrived_s = begun_s - trip.queue_s
            bars: list[tuple[Lane, float, float]] = [
                ("uplink", min(max(trip.sent_s, free_s), arrived_s), arrived_s),
                ("cloud", begun_s, computed_s),
                ("downlink", computed_s, trip.answered_s),
            ]
            found += [
                Span(lane, trip.what, start, end, trip.num_tokens) for lane, start, end in bars
            ]
            free_s = arrived_s
        return sorted(found, key=lambda span: span.start_s)

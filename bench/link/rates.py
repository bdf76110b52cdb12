"""How fast a link sends at which moment; pure.

Moments are seconds since the link was opened.
"""

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Rate(Protocol):
    """A link's rate over time."""

    @property
    def mean_bytes_per_s(self) -> float:
        """Over a long time; infinite where there is no limit."""
        ...

    def sent_at(self, start_s: float, num_bytes: int) -> float:
        """When the last of so many bytes is sent whose first is at `start_s`."""
        ...


@dataclass(frozen=True, slots=True)
class ConstantRate:
    """The same at all times; infinite is no limit."""

    bytes_per_s: float

    @property
    def mean_bytes_per_s(self) -> float:
        """The rate."""
        return self.bytes_per_s

    def sent_at(self, start_s: float, num_bytes: int) -> float:
        """When the last byte is sent."""
        return start_s + num_bytes / self.bytes_per_s


class RecordedRate:
    """Constant between the recording's moments, and from its end on all over again.

    Args:
        starts_s: When each rate begins; the first is 0, each later than the one before.
        bytes_per_s: The rates, shape [len(starts_s)]; 0 is an outage.
        end_s: When the last rate ends and the first begins again.
        offset_s: Where in the recording the link begins.

    Raises:
        ValueError: moments out of order, a negative rate, or no byte ever sent.
    """

    def __init__(
        self,
        starts_s: Sequence[float],
        bytes_per_s: Sequence[float],
        end_s: float,
        offset_s: float = 0.0,
    ) -> None:
        bounds = [*starts_s, end_s]
        if not all(map(math.isfinite, [*bounds, *bytes_per_s])):
            raise ValueError("expected finite numbers")
        if not starts_s or bounds[0] != 0 or any(a >= b for a, b in itertools.pairwise(bounds)):
            raise ValueError("expected rising moments from 0 on")
        if len(bytes_per_s) != len(starts_s) or min(bytes_per_s) < 0 or max(bytes_per_s) <= 0:
            raise ValueError("expected one rate per moment, none negative, not all 0")
        self._bounds_s = bounds
        self._rates = list(bytes_per_s)
        lengths_s = (b - a for a, b in itertools.pairwise(bounds))
        pieces = (rate * length_s for rate, length_s in zip(bytes_per_s, lengths_s, strict=True))
        self._sent = [0.0, *itertools.accumulate(pieces)]
        self._offset_s = offset_s

    @property
    def period_s(self) -> float:
        """The recording's length."""
        return self._bounds_s[-1]

    @property
    def mean_bytes_per_s(self) -> float:
        """Over the whole recording."""
        return self._sent[-1] / self.period_s

    def at(self, moment_s: float) -> float:
        """The rate at a moment, in bytes per second."""
        inside_s = (moment_s + self._offset_s) % self.period_s
        return self._rates[self._piece(inside_s)]

    def sent_at(self, start_s: float, num_bytes: int) -> float:
        """When the last byte is sent; an outage makes it wait."""
        num_periods, inside_s = divmod(start_s + self._offset_s, self.period_s)
        piece = self._piece(inside_s)
        before = self._sent[piece] + self._rates[piece] * (inside_s - self._bounds_s[piece])
        more_periods, wanted = divmod(before + num_bytes, self._sent[-1])
        if wanted == 0:  # the last byte is the period's last: it is sent before the next begins
            more_periods, wanted = more_periods - 1, self._sent[-1]
        last = bisect.bisect_left(self._sent, wanted, 1) - 1
        end_s = self._bounds_s[last] + (wanted - self._sent[last]) / self._rates[last]
        return max(start_s, (num_periods + more_periods) * self.period_s + end_s - self._offset_s)

    def _piece(self, inside_s: float) -> int:
        return min(bisect.bisect_right(self._bounds_s, inside_s), len(self._rates)) - 1

"""Averages over a stream of measurements; what is no measurement changes nothing."""

from collections import deque
from math import isfinite
from statistics import median
from typing import Protocol

_PAPER_PAST_WEIGHT = 0.8
_ROBUST_PAST_WEIGHT = 0.7
_NUM_RECENT = 3
_STEP_FACTOR = 1.5
"""Measurements that agree on a value this far off tell of a change, not of noise."""


class Average(Protocol):
    """The typical value of non-negative measurements; `None` before the first."""

    value: float | None

    def add(self, sample: float) -> None:
        """Take a measurement; a negative or infinite one is ignored."""
        ...


class MovingAverage:
    """`0.8 * past + 0.2 * new`, as in the paper (HAT, arXiv:2503.18989, state monitoring)."""

    def __init__(self, past_weight: float = _PAPER_PAST_WEIGHT) -> None:
        self.value: float | None = None
        self._past_weight = past_weight

    def add(self, sample: float) -> None:
        """Take a measurement."""
        if not _is_measurement(sample):
            return
        past = sample if self.value is None else self.value
        self.value = self._past_weight * past + (1.0 - self._past_weight) * sample


class RobustAverage:
    """A moving average of the median of the last three, which jumps when these agree on a jump.

    One outlier of any size moves it no further than its neighbours do; a real change is followed
    with the second measurement after it.
    """

    def __init__(self) -> None:
        self.value: float | None = None
        self._recent: deque[float] = deque(maxlen=_NUM_RECENT)

    def add(self, sample: float) -> None:
        """Take a measurement."""
        if not _is_measurement(sample):
            return
        self._recent.append(sample)
        recent = self._recent
        middle = sorted(recent)[1] if len(recent) == _NUM_RECENT else median(recent)
        past = self.value
        is_settled = past is not None and len(recent) == _NUM_RECENT
        if past is None or not is_settled or not _is_near(past, middle):
            self.value = middle
        else:
            self.value = _ROBUST_PAST_WEIGHT * past + (1.0 - _ROBUST_PAST_WEIGHT) * middle


def _is_measurement(sample: float) -> bool:
    return isfinite(sample) and sample >= 0.0


def _is_near(past: float, new: float) -> bool:
    return past <= _STEP_FACTOR * new and new <= _STEP_FACTOR * past

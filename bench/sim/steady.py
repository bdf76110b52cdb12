"""Whether a run under open-ended load has settled, and from when on its requests count.

What is looked at is the backlog: requests that have come and were not answered, those given up
among them. While a system keeps up, its backlog goes up and down around a level; when it does
not, the backlog grows at the rate by which it falls behind.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean, pvariance
from typing import Final

SAMPLES_PER_S: Final = 4

NUM_BATCHES: Final = 8
_T95, _T99 = 1.943, 3.143
"""One-sided quantiles of Student's t with 6 degrees of freedom: a line through 8 means."""

_TOLERATED: Final = 0.02
"""Of the requests that come, so many may be left over and the run still counts as settled."""

_PLAIN: Final = 0.1
"""With so many left over for certain there is no need to look any longer."""

_BATCH_STAYS: Final = 1.5
"""Least length of a batch in times that a request stays: the means of shorter ones would depend
on each other, and the line through them seem surer than it is."""


class State(Enum):
    """What is known of a run's backlog."""

    SETTLED = "settled"
    GROWING = "growing"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`warm_up_s` is left out; from then on the backlog grows by `growth_per_s` in the mean.

    `error_per_s` is the standard error of that; in a run too short to say anything, all requests.
    """

    state: State
    warm_up_s: float
    growth_per_s: float
    error_per_s: float


def backlog(arrivals_s: Sequence[float], served_s: Sequence[float], until_s: float) -> list[float]:
    """Requests that have come and were not answered, so many times a second; both in order."""
    moments = [
        (number + 1) / SAMPLES_PER_S for number in range(math.floor(until_s * SAMPLES_PER_S))
    ]
    return [float(bisect_right(arrivals_s, at) - bisect_right(served_s, at)) for at in moments]


def judge(samples: Sequence[float], requests_per_s: float, *, is_last: bool = False) -> Verdict:
    """Whether a backlog, sampled from the start on, has come to rest.

    The warm-up is cut where the rest has the smallest standard error (MSER: White, 1997), at most
    half of the run; a line goes through the means of eight batches of the rest.

    Args:
        samples: The backlog, `SAMPLES_PER_S` times a second.
        requests_per_s: How many requests come.
        is_last: Whether nobody will look again: then growth need only be certain, not large.
    """
    cut = _warm_up(samples)
    length = (len(samples) - cut) // NUM_BATCHES
    if length == 0:
        return Verdict(State.UNDECIDED, cut / SAMPLES_PER_S, 0.0, requests_per_s)
    first = len(samples) - NUM_BATCHES * length
    means = [fmean(samples[at : at + length]) for at in range(first, len(samples), length)]
    batch_s = length / SAMPLES_PER_S
    growth, error = (value / batch_s for value in _slope(means))
    plain = (_TOLERATED if is_last else _PLAIN) * requests_per_s
    stay_s = fmean(means) / requests_per_s
    is_long_enough = batch_s >= _BATCH_STAYS * stay_s
    if growth - _T99 * error > plain:
        state = State.GROWING
    elif is_long_enough and growth + _T95 * error < _TOLERATED * requests_per_s:
        state = State.SETTLED
    else:
        state = State.UNDECIDED
    return Verdict(state, first / SAMPLES_PER_S, growth, error)


def _warm_up(samples: Sequence[float]) -> int:
    """How many samples to leave out: whole seconds, at most half of all."""
    seconds = [
        fmean(samples[at : at + SAMPLES_PER_S])
        for at in range(0, len(samples) - SAMPLES_PER_S + 1, SAMPLES_PER_S)
    ]
    cuts = range(len(seconds) // 2 + 1)
    if not seconds:
        return 0
    best = min(cuts, key=lambda cut: pvariance(seconds[cut:]) / (len(seconds) - cut))
    return best * SAMPLES_PER_S


def _slope(means: Sequence[float]) -> tuple[float, float]:
    """Of the line of least squares through values one apart, with its standard error."""
    places = [place - (len(means) - 1) / 2 for place in range(len(means))]
    spread = sum(place * place for place in places)
    middle = fmean(means)
    slope = sum(place * value for place, value in zip(places, means, strict=True)) / spread
    residuals = sum(
        (value - middle - slope * place) ** 2 for place, value in zip(places, means, strict=True)
    )
    return slope, math.sqrt(residuals / (len(means) - 2) / spread)

"""Pipelined verification: how many drafts may be sent on behind one that is not decided yet.

A frame behind another one begins with a guess at the target's own token. When all before it is
accepted and the guess is right, its verification is under way already and costs hardly a round
trip; else its rows were for nothing, and may have delayed the next round.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """How a round ended."""

    num_drafted: int
    num_accepted: int
    may_go_on: bool
    """Whether another draft was worth a try behind it."""
    num_behind: int
    """Drafts that were made behind it by then."""
    is_hit: bool
    """Whether the first of those is the next round."""
    interval_s: float | None
    """Since the decision before; None where something else took time."""
    queue_s: float | None
    """In the cloud, behind other devices' rows; None where it may have been behind our own."""


class Pipelining(Protocol):
    """Says how many rounds may wait behind the one that is decided next; learns from each."""

    def num_behind(self) -> int:
        """The most that pays now; 0 to wait for every decision."""
        ...

    def on_round(self, outcome: RoundOutcome) -> None:
        """Take what became of a round."""
        ...


class FixedPipelining:
    """Always the same number."""

    def __init__(self, num_behind: int) -> None:
        self._num_behind = num_behind

    def num_behind(self) -> int:
        return self._num_behind

    def on_round(self, outcome: RoundOutcome) -> None:
        """Nothing to learn."""


_MOST_BEHIND = 3
"""Rounds behind the first. Where the third is likely enough to survive, four frames are on the way,
and the device's own drafting is what takes the time."""

_LEAST_SURVIVAL = 0.2
"""What is of use with a lower chance is not sent: at 0.2, two thirds of the cloud's rows are
wasted already."""

_LEAST_SURVIVAL_BUSY = 0.6
"""The same while others wait for the cloud."""

_BUSY_SHARE = 0.1
"""Of a round spent in the cloud's queue: it is busy."""

_OPENS_BELOW, _CLOSES_ABOVE = 0.95, 0.99
"""Expected time of a round as a share of one without, to begin and to end sending on."""

_WARM_UP_ROUNDS = 6
"""Rounds of the device whose time is known, before anything is sent on."""

_PROBE_ROUNDS = 64
_PROBE_COST = 0.01
"""While it does not pay, one round in so many is sent on; in more where that would cost more than
this share of the time."""

_PLAIN_ROUNDS = 32
"""While it pays, one round in so many waits, so that the time without is known."""

_ASSUMED_HIT, _ASSUMED_MISS = 0.5, 1.02
"""Time of a round behind a right guess and behind a wrong one, as shares of one without."""

_SURVIVAL_FADING, _TIME_FADING = 0.97, 0.95
"""Weight of a round against the next one: about the last 33 and the last 20 count."""

_MOST_SHARE = 3.0
"""A round counts as at most so many without: a pause of the machine is none."""


class _FadingMean:
    """A mean of what was seen lately, beginning with an assumption that weighs as one sample."""

    def __init__(self, fading: float, assumed: float | None = None) -> None:
        self._fading = fading
        self.num_samples = 0
        self._weight = 0.0 if assumed is None else 1.0
        self.value = 0.0 if assumed is None else assumed

    def add(self, sample: float) -> None:
        """Take what was seen now."""
        self.num_samples += 1
        self._weight = self._weight * self._fading + 1.0
        self.value += (sample - self.value) / self._weight


class RoundTimes:
    """How long rounds take on one device, over all of its generations.

    `hit` and `miss` are shares of `plain_s`, so that they hold when the link changes.
    """

    def __init__(self) -> None:
        self.plain_s = _FadingMean(_TIME_FADING)
        self.hit = _FadingMean(_TIME_FADING, _ASSUMED_HIT)
        self.miss = _FadingMean(_TIME_FADING, _ASSUMED_MISS)
        self.queue = _FadingMean(_TIME_FADING, 0.0)

    def expected(self, survival: float) -> float:
        """Time of a round with one behind it that survives by this chance; 1 is that without."""
        return survival * self.hit.value + (1.0 - survival) * self.miss.value


class GatedPipelining:
    """Sends on while that takes less time per round than waiting, by what was measured.

    A round behind a right guess ends `hit` after the one before it, one behind a wrong guess
    `miss`, both as shares of a round without. All bring the same number of tokens, so with the
    chance `h` that all of a draft is accepted and the guess behind it is right, sending on pays
    while `h * hit + (1 - h) * miss < 1`. What stale rows cost (a thin uplink, a slow cloud, a busy
    device) is in `miss`, what the device's own drafting takes in `hit`.

    `h` is the share of hits lately; while nothing is sent on, a draft that was accepted whole
    counts with the chance that one token more would have been. So a gate that is shut because
    drafts fail needs no probe to open. A second round behind the first survives with `h * h`, and
    so on: as many are sent as have a chance that is high enough, at most `_MOST_BEHIND`.
    """

    def __init__(self, times: RoundTimes) -> None:
        self._times = times
        self._survival = _FadingMean(_SURVIVAL_FADING, 1 / 3)
        self._acceptance = _FadingMean(_SURVIVAL_FADING, 1 / 2)
        self._is_open = False
        self._num_since_plain = 0
        self._num_since_probe = 0
        self._before: RoundOutcome | None = None

    def num_behind(self) -> int:
        survival = self._survival.value
        if self._is_open:
            if self._num_since_plain >= _PLAIN_ROUNDS:
                return 0
            deep = (n for n in range(2, _MOST_BEHIND + 1) if survival**n >= self._least)
            return max(deep, default=1)
        is_probe = self._num_since_probe >= self._probe_rounds and survival >= self._least
        return int(is_probe and self._is_warm)

    def on_round(self, outcome: RoundOutcome) -> None:
        self._learn_time(outcome)
        self._learn_survival(outcome)
        self._before = outcome
        self._num_since_probe = 0 if outcome.num_behind else self._num_since_probe + 1
        self._num_since_plain = self._num_since_plain + 1 if outcome.num_behind else 0
        if not self._is_warm:
            return
        expected = self._times.expected(self._survival.value)
        if self._is_open:
            is_likely = self._survival.value >= 0.8 * self._least
            self._is_open = is_likely and expected <= _CLOSES_ABOVE
        else:
            self._is_open = self._survival.value >= self._least and expected <= _OPENS_BELOW

    @property
    def _is_warm(self) -> bool:
        return self._times.plain_s.num_samples >= _WARM_UP_ROUNDS

    @property
    def _least(self) -> float:
        is_busy = self._times.queue.value > _BUSY_SHARE
        return _LEAST_SURVIVAL_BUSY if is_busy else _LEAST_SURVIVAL

    @property
    def _probe_rounds(self) -> float:
        cost = self._times.expected(self._survival.value) - 1.0
        return max(_PROBE_ROUNDS, cost / _PROBE_COST)

    def _learn_time(self, outcome: RoundOutcome) -> None:
        """Which kind of a round it was is decided by what became of the one before it."""
        times, before = self._times, self._before
        if outcome.interval_s is None:
            return
        plain_s = times.plain_s.value if times.plain_s.num_samples else outcome.interval_s
        share = min(outcome.interval_s / max(plain_s, 1e-9), _MOST_SHARE)
        if before is None or before.num_behind == 0:
            times.plain_s.add(share * plain_s)
        elif before.is_hit:
            times.hit.add(share)
        else:
            times.miss.add(share)
        if outcome.queue_s is not None:
            times.queue.add(min(outcome.queue_s / max(plain_s, 1e-9), 1.0))

    def _learn_survival(self, outcome: RoundOutcome) -> None:
        num_tested = min(outcome.num_accepted + 1, outcome.num_drafted)
        for index in range(num_tested):
            self._acceptance.add(float(index < outcome.num_accepted))
        if outcome.num_behind > 0:
            self._survival.add(float(outcome.is_hit))
        elif outcome.may_go_on:
            is_whole = outcome.num_accepted == outcome.num_drafted
            self._survival.add(self._acceptance.value if is_whole else 0.0)

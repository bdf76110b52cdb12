"""How long a step takes by its size, and when a refused device may come back."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2

_PAST_WEIGHT = 0.8
"""Weight of the past in the moving average; the paper's figure (HAT, section on monitoring)."""

_MIN_RETRY_S = 0.5
_MAX_RETRY_S = 30.0


@dataclass(slots=True)
class _Bucket:
    """Moving averages over the steps of about one size."""

    num_tokens: float
    seconds: float


class StepTimes:
    """The measured `g(tokens) -> seconds`, a monotone table by powers of two."""

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Learn from one step of `num_tokens` rows."""
        if num_tokens < 1:
            return
        size = num_tokens.bit_length()
        bucket = self._buckets.get(size)
        if bucket is None:
            self._buckets[size] = _Bucket(num_tokens, seconds)
            return
        bucket.num_tokens = _average(bucket.num_tokens, num_tokens)
        bucket.seconds = _average(bucket.seconds, seconds)

    def estimate_s(self, num_tokens: float) -> float | None:
        """How long a step of so many rows takes; None before the first step.

        Never falls as rows grow. Below the smallest size seen it is that size's time; beyond the
        largest it grows in proportion, which errs on the long side.
        """
        if not self._buckets:
            return None
        return _interpolate(self._points(), num_tokens)

    def _points(self) -> list[tuple[float, float]]:
        """Mean rows and mean seconds of each size, ascending in both."""
        points: list[tuple[float, float]] = []
        longest_s = 0.0
        for _, bucket in sorted(self._buckets.items()):
            longest_s = max(longest_s, bucket.seconds)
            points.append((bucket.num_tokens, longest_s))
        return points


def suggest_retry_s(num_queued_tokens: int, budget_tokens: int, times: StepTimes) -> float:
    """When a refused device may come back: once what is queued now has run, within 0.5 to 30 s.

    It is 0.5 s times a power of two, so that a refusal does not tell how much others have queued.
    """
    step_s = times.estimate_s(budget_tokens)
    if step_s is None:
        return _MIN_RETRY_S
    num_steps = num_queued_tokens / budget_tokens
    needed_s = max(num_steps * step_s, _MIN_RETRY_S)
    return min(_MIN_RETRY_S * 2.0 ** ceil(log2(needed_s / _MIN_RETRY_S)), _MAX_RETRY_S)


def _interpolate(points: Sequence[tuple[float, float]], num_tokens: float) -> float:
    low_tokens, low_s = points[0]
    if num_tokens <= low_tokens:
        return low_s
    for high_tokens, high_s in points[1:]:
        if num_tokens <= high_tokens:
            share = (num_tokens - low_tokens) / (high_tokens - low_tokens)
            return low_s + share * (high_s - low_s)
        low_tokens, low_s = high_tokens, high_s
    return low_s * num_tokens / low_tokens


def _average(past: float, new: float) -> float:
    return _PAST_WEIGHT * past + (1 - _PAST_WEIGHT) * new

"""Seconds over tokens, learned from work of many sizes: g of the cloud, prefill of the device."""

from collections.abc import Callable

from chunking.averages import Average
from chunking.cost import LinearTime

_MAX_TOKENS = 1 << 24
_MAX_S = 86_400.0


class LineEstimator:
    """`fixed_s + num_tokens * token_s` through the averages of sizes between powers of two.

    Each such bucket has its own average, so a size that comes often does not drown the others and
    an outlier is its bucket's affair. The line is the least-squares one of relative errors, with
    neither coefficient below 0. Seen only one size, half of its time is taken for fixed.
    """

    def __init__(self, make_average: Callable[[], Average]) -> None:
        self._make_average = make_average
        self._buckets: dict[int, tuple[Average, Average]] = {}

    def add(self, num_tokens: int, seconds: float) -> None:
        """Take a measurement; what cannot be one is ignored."""
        if not 1 <= num_tokens <= _MAX_TOKENS or not 0.0 <= seconds <= _MAX_S:
            return
        bucket = num_tokens.bit_length()
        if bucket not in self._buckets:
            self._buckets[bucket] = (self._make_average(), self._make_average())
        tokens, duration = self._buckets[bucket]
        tokens.add(num_tokens)
        duration.add(seconds)

    @property
    def line(self) -> LinearTime | None:
        """The estimate; `None` before the first measurement."""
        points = [
            (tokens.value, duration.value)
            for tokens, duration in self._buckets.values()
            if tokens.value is not None and duration.value is not None
        ]
        if not points:
            return None
        if len(points) == 1:
            num_tokens, seconds = points[0]
            return LinearTime(0.5 * seconds, 0.5 * seconds / num_tokens)
        return _fitted(points)


def _fitted(points: list[tuple[float, float]]) -> LinearTime:
    """Weighted least squares; where a coefficient would be negative, the best line without it."""
    weights = [1.0 / max(seconds, 1e-6) ** 2 for _, seconds in points]
    total = sum(weights)
    mean_n = sum(w * n for w, (n, _) in zip(weights, points, strict=True)) / total
    mean_s = sum(w * s for w, (_, s) in zip(weights, points, strict=True)) / total
    pairs = list(zip(weights, points, strict=True))
    variation = sum(w * (n - mean_n) ** 2 for w, (n, _) in pairs)
    covariation = sum(w * (n - mean_n) * (s - mean_s) for w, (n, s) in pairs)
    token_s = covariation / variation if variation > 0.0 else 0.0
    fixed_s = mean_s - token_s * mean_n
    if token_s < 0.0:
        return LinearTime(mean_s, 0.0)
    if fixed_s < 0.0:
        through_zero = sum(w * n * s for w, (n, s) in pairs) / sum(w * n * n for w, (n, _) in pairs)
        return LinearTime(0.0, through_zero)
    return LinearTime(fixed_s, token_s)

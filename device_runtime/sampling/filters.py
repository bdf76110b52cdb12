"""Which tokens a sampled position may take, and how likely each is: temperature and filters."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device_runtime.generation.request import SamplingParams

NEGLIGIBLE = -46.0
"""Log of a weight, relative to the largest, below which a token cannot win.

Noise lies in [2**-54, 37.5]. The most likely token (weight 1) scores at most 37.5 and a token of
weight w at least 2**-54 / w, so w < 2**-54 / 37.5 = e**-41.1 always loses; the rest is margin.
"""

_NUM_BINS = 4096
_BINS_PER_NAT = _NUM_BINS / -NEGLIGIBLE


@dataclass(frozen=True, slots=True)
class Candidates:
    """Token ids `[N]`, ascending, N >= 1, and their probabilities `[N]` times a common factor."""

    token_ids: NDArray[np.int64]
    weights: NDArray[np.float64]


def candidates(logits: NDArray[np.float64], params: SamplingParams) -> Candidates:
    """The distribution a position is sampled from: temperature, min_p, top_k, top_p, in this order.

    Args:
        logits: `[V]`, biased and penalised, finite or -inf, at least one finite.
        params: with a temperature above 0.

    min_p keeps tokens of at least `min_p` times the largest probability. top_k keeps the k
    largest and everything equal to the k-th. top_p keeps the shortest run of most likely tokens,
    equal ones by ascending id, whose mass reaches `top_p` of what the filters before it left.
    """
    largest = float(logits.max())
    floor = max(NEGLIGIBLE, float(np.log(params.min_p))) if params.min_p > 0.0 else NEGLIGIBLE
    cut = largest + floor * params.temperature
    ids = np.flatnonzero(logits >= cut)
    scaled = logits[ids]
    if 0 < params.top_k < len(ids):
        kept = np.flatnonzero(scaled >= np.partition(scaled, -params.top_k)[-params.top_k])
        ids, scaled = ids[kept], scaled[kept]
    scaled -= largest
    scaled /= params.temperature
    if params.top_p < 1.0:
        kept = _nucleus(scaled, params.top_p)
        ids, scaled = ids[kept], scaled[kept]
    return Candidates(ids, np.exp(scaled, out=scaled))


def _nucleus(scaled: NDArray[np.float64], top_p: float) -> NDArray[np.int64]:
    """Indices, ascending, of the shortest most likely run with at least `top_p` of the mass.

    Args:
        scaled: Log weights `[N]`, the largest 0.

    Sorting 150,000 numbers costs 6 ms. So tokens that cannot belong (N of them together are
    lighter than what may be left out) go first, the rest is counted into bins of its log weight,
    and only the bin where the mass crosses `top_p` is sorted.
    """
    weights = np.exp(scaled)
    total = float(weights.sum())
    needed, spare = top_p * total, (1.0 - top_p) * total
    near = np.flatnonzero(weights * len(weights) >= spare)
    weights = weights[near]
    bins = (scaled[near] * -_BINS_PER_NAT).astype(np.intp)
    mass = np.cumsum(np.bincount(bins, weights=weights))
    crossing = min(int(np.searchsorted(mass, needed)), len(mass) - 1)
    before = float(mass[crossing - 1]) if crossing > 0 else 0.0
    inside = np.flatnonzero(bins == crossing)
    order = inside[np.argsort(-weights[inside], kind="stable")]
    reached = before + np.cumsum(weights[order])
    kept = bins < crossing
    kept[order[: int(np.searchsorted(reached, needed)) + 1]] = True
    return near[kept]

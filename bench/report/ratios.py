"""Arms against a baseline, pass by pass, so that a machine's slow minutes cancel."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench import measures
from bench.records import Cell, RequestRecord
from bench.report.groups import ArmResult, Group

# The method is measured against the same split without it; then against what users have today.
BASELINES = ("u-shape", "cloud-only")


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of paired ratios, and the least and greatest of them."""

    median: float
    least: float
    greatest: float
    num_pairs: int


def median_ttft_s(requests: Sequence[RequestRecord]) -> float | None:
    """None without an answered request."""
    values = [r.emissions[0][0] for r in requests if r.error is None and r.emissions]
    return measures.percentile(values, 50) if values else None


def median_tbt_s(requests: Sequence[RequestRecord]) -> float | None:
    """Over all tokens of answered requests; None without one that has two pieces."""
    values = [v for r in requests if r.error is None for v in measures.tbt_s(r)]
    return measures.percentile(values, 50) if values else None


def mean_tbt_s(requests: Sequence[RequestRecord]) -> float | None:
    """Over all tokens of answered requests; None without one that has two pieces."""
    values = [v for r in requests if r.error is None for v in measures.tbt_s(r)]
    return statistics.fmean(values) if values else None


def paired_ratio(
    result: ArmResult,
    baseline: ArmResult,
    measure: Callable[[Sequence[RequestRecord]], float | None],
) -> Ratio | None:
    """`measure` of the arm over that of the baseline, in each pass that has both.

    Requests that one of them did not answer are left out of both.
    """
    ratios = []
    of_baseline = {each.pass_key: _answered(each.cell) for each in baseline.placed}
    for each in result.placed:
        ours, theirs = _answered(each.cell), of_baseline.get(each.pass_key, {})
        common = sorted(ours.keys() & theirs.keys())
        above = measure([ours[number] for number in common])
        below = measure([theirs[number] for number in common])
        if above is not None and below:
            ratios.append(above / below)
    if not ratios:
        return None
    return Ratio(statistics.median(ratios), min(ratios), max(ratios), len(ratios))


def _answered(cell: Cell) -> dict[int, RequestRecord]:
    return {r.number: r for r in cell.requests if r.error is None and r.emissions}


def default_baseline(groups: Iterable[Group]) -> str | None:
    """The first of the usual baselines that was run anywhere."""
    names = {result.arm for group in groups for result in group.arms}
    return next((name for name in BASELINES if name in names), None)

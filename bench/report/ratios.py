"""Arms against a baseline, pass by pass, so that a machine's slow minutes cancel."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench import measures
from bench.records import Cell
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


def median_ttft_s(cell: Cell) -> float | None:
    """Of the requests that were answered; None without one."""
    values = [r.emissions[0][0] for r in cell.requests if r.error is None and r.emissions]
    return measures.percentile(values, 50) if values else None


def median_tbt_s(cell: Cell) -> float | None:
    """Over all tokens of answered requests; None without one that has two pieces."""
    values = [v for r in cell.requests if r.error is None for v in measures.tbt_s(r)]
    return measures.percentile(values, 50) if values else None


def mean_tbt_s(cell: Cell) -> float | None:
    """Over all tokens of answered requests; None without one that has two pieces."""
    values = [v for r in cell.requests if r.error is None for v in measures.tbt_s(r)]
    return statistics.fmean(values) if values else None


def paired_ratio(
    result: ArmResult, baseline: ArmResult, measure: Callable[[Cell], float | None]
) -> Ratio | None:
    """`measure` of the arm over that of the baseline, in each pass that has both."""
    ratios = []
    of_baseline = {each.pass_key: measure(each.cell) for each in baseline.placed}
    for each in result.placed:
        ours, theirs = measure(each.cell), of_baseline.get(each.pass_key)
        if ours is not None and theirs:
            ratios.append(ours / theirs)
    if not ratios:
        return None
    return Ratio(statistics.median(ratios), min(ratios), max(ratios), len(ratios))


def default_baseline(groups: Iterable[Group]) -> str | None:
    """The first of the usual baselines that was run anywhere."""
    names = {result.arm for group in groups for result in group.arms}
    return next((name for name in BASELINES if name in names), None)

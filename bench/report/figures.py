"""Figures that take more than one arm, or limits: what the page and the README's table compare."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench import measures
from bench.records import Cell, RequestRecord
from bench.report.formats import NONE
from bench.report.groups import LIVE, SIM, ArmResult, Group
from process.errors import UserError

BASELINES = ("u-shape", "cloud-only")
"""The method is measured against the same split without it; then against what users have today."""

Measure = Callable[[Sequence[RequestRecord]], float | None]
"""Of answered requests."""


class ReportError(UserError):
    """The report cannot be made as asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request must keep to count as served well: TTFT, and its mean TBT."""

    ttft_s: float = 1.0
    tbt_s: float = 0.1


def served_well(result: ArmResult, limits: Limits) -> tuple[float, float] | None:
    """The share of all requests, failed ones too, within the limits; and such requests per second.

    The second is the mean of the repeats. None without requests.
    """
    cells = [cell for cell in result.cells if cell.requests]
    if not cells:
        return None
    within = (limits.ttft_s, limits.tbt_s)
    num_met = sum(measures.sla_attainment(cell, *within) * len(cell.requests) for cell in cells)
    per_s = statistics.fmean(measures.goodput_per_s(cell, *within) for cell in cells)
    return num_met / len(result.requests), per_s


def median_ttft_s(answered: Sequence[RequestRecord]) -> float | None:
    """None without a request."""
    values = [request.emissions[0][0] for request in answered]
    return measures.percentile(values, 50) if values else None


def mean_tbt_s(answered: Sequence[RequestRecord]) -> float | None:
    """Over all tokens; None without an answer of two pieces."""
    values = [value for request in answered for value in measures.tbt_s(request)]
    return statistics.fmean(values) if values else None


def paired_ratios(
    result: ArmResult | None, baseline: ArmResult | None, measure: Measure
) -> list[float]:
    """`measure` of the arm over that of the baseline, pass by pass: slow minutes cancel.

    Requests that one of them did not answer are left out of both.
    """
    if result is None or baseline is None:
        return []
    ratios = []
    of_baseline = {each.pass_key: _answered(each.cell) for each in baseline.placed}
    for each in result.placed:
        ours, theirs = _answered(each.cell), of_baseline.get(each.pass_key, {})
        common = sorted(ours.keys() & theirs.keys())
        above = measure([ours[number] for number in common])
        below = measure([theirs[number] for number in common])
        if above is not None and below:
            ratios.append(above / below)
    return ratios


def _answered(cell: Cell) -> dict[int, RequestRecord]:
    return {r.number: r for r in cell.requests if r.error is None and r.emissions}


def find_baseline(groups: Iterable[Group], name: str | None) -> str | None:
    """The arm of that name; without a name the first of the usual baselines that was run.

    Raises:
        ReportError: it was not run.
    """
    arms = sorted({result.arm for group in groups for result in group.arms})
    if name is None:
        return next((usual for usual in BASELINES if usual in arms), None)
    if name not in arms:
        raise ReportError(f"expected a baseline among {', '.join(arms) or 'no arms'}, got {name}")
    return name


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many answers were compared with those of `reference`, and how many differ."""

    reference: str
    num_compared: int
    num_different: int


def agreements(group: Group) -> dict[str, Agreement]:
    """Greedy answers against those of the first arm with one, by arm, pass by pass.

    Empty when there is nothing to compare: sampled texts, and a simulation, which has none.
    """
    answering = [result for result in group.arms if result.answered]
    if group.like.workload.temperature > 0 or group.kind != LIVE or not answering:
        return {}
    reference, *others = answering
    expected = _texts(reference)
    found: dict[str, Agreement] = {}
    for result in others:
        answers = _texts(result)
        if common := answers.keys() & expected.keys():
            num_different = sum(answers[key] != expected[key] for key in common)
            found[result.arm] = Agreement(reference.arm, len(common), num_different)
    return found


def _texts(result: ArmResult) -> dict[tuple[int, int, int], str]:
    return {
        (*each.pass_key, number): request.output_sha256
        for each in result.placed
        for number, request in _answered(each.cell).items()
    }


def text_compared(group: Group, arm: str) -> str:
    """Whether an arm's greedy answers are those of the first arm, in a word or two."""
    if group.like.workload.temperature > 0:
        return "sampled"
    same = agreements(group)
    if arm not in same:
        return "reference" if any(each.reference == arm for each in same.values()) else NONE
    num = same[arm].num_different
    return f"{num} of {same[arm].num_compared} differ" if num else "same"


def twin_of(group: Group, groups: Iterable[Group]) -> Group | None:
    """The simulation of a live setting, if there is one."""

    def same_setting(other: Group) -> bool:
        return (other.name, other.like.num_replicas) == (group.name, group.like.num_replicas)

    simulated = (other for other in groups if other.kind == SIM and same_setting(other))
    return next(simulated, None) if group.kind == LIVE else None

"""The figures of one arm at one setting: over all its repeats, and against other arms."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench import measures
from bench.records import Cell, RequestRecord
from bench.report.groups import LIVE, SIM, ArmResult, Group

BASELINES = ("u-shape", "cloud-only")
"""The method is measured against the same split without it; then against what users have today."""

SIM_TOLERANCE = 0.10
"""What the simulator is held to."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request must keep to count as served well: TTFT, and its mean TBT."""

    ttft_s: float = 1.0
    tbt_s: float = 0.1


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of one quantity in seconds."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True)
class Summary:
    """None stands for what this arm has no figure of. Failed requests count in `sla` alone."""

    ttft: Quantiles | None
    tbt: Quantiles | None
    gap: Quantiles | None
    accept_length: float | None
    """None as well when the model's weights are random."""
    acceptance: tuple[float, ...]
    """By position; empty where `accept_length` is None."""
    bytes_up_per_token: float | None
    bytes_down_per_token: float | None
    cloud_step_mean_s: float | None
    cloud_step_deviation_s: float | None
    sla: float | None
    goodput_per_s: float | None
    """The mean of the repeats."""
    num_unsettled: int
    """Repeats under open-ended load that did not come to rest."""


def summarise(result: ArmResult, limits: Limits) -> Summary:
    """Percentiles over the requests of all repeats together."""
    answered, within = result.answered, (limits.ttft_s, limits.tbt_s)
    drafting = answered if result.cells[0].model.has_real_weights else []
    acceptance = measures.acceptance_by_position(drafting)
    cells = [cell for cell in result.cells if cell.requests]
    met = sum(measures.sla_attainment(cell, *within) * len(cell.requests) for cell in cells)
    steps = [step for cell in result.cells for step in cell.cloud_step_s]
    return Summary(
        ttft=quantiles(ttfts_s(answered)),
        tbt=quantiles(tbts_s(answered)),
        gap=quantiles([gap for one in answered for gap in measures.emission_gaps_s(one)]),
        accept_length=measures.accept_length(drafting) if acceptance else None,
        acceptance=tuple(acceptance),
        bytes_up_per_token=measures.bytes_up_per_token(answered),
        bytes_down_per_token=measures.bytes_down_per_token(answered),
        cloud_step_mean_s=_mean(steps),
        cloud_step_deviation_s=statistics.pstdev(steps) if steps else None,
        sla=met / len(result.requests) if result.requests else None,
        goodput_per_s=_mean([measures.goodput_per_s(cell, *within) for cell in cells]),
        num_unsettled=sum(cell.steady is not None and not cell.steady.is_settled for cell in cells),
    )


def summaries(groups: Iterable[Group], limits: Limits) -> dict[int, Summary]:
    """Of every arm at every setting, by its number."""
    results = [result for group in groups for result in group.arms]
    return {result.number: summarise(result, limits) for result in results}


def ttfts_s(answered: Iterable[RequestRecord]) -> list[float]:
    """One per request."""
    return [request.emissions[0][0] for request in answered]


def tbts_s(answered: Iterable[RequestRecord]) -> list[float]:
    """One per token after the first piece."""
    return [value for request in answered for value in measures.tbt_s(request)]


def quantiles(values: Sequence[float]) -> Quantiles | None:
    """The three percentiles, None of no values."""
    if not values:
        return None
    return Quantiles(*(measures.percentile(values, percent) for percent in measures.PERCENTILES))


def median_ttft_s(answered: Sequence[RequestRecord]) -> float | None:
    """None without a request."""
    values = ttfts_s(answered)
    return measures.percentile(values, 50) if values else None


def mean_tbt_s(answered: Sequence[RequestRecord]) -> float | None:
    """Over all tokens; None without an answer of two pieces."""
    return _mean(tbts_s(answered))


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of ratios, the least and greatest of them, and how many there are."""

    median: float
    least: float
    greatest: float
    num: int


def ratio_of(ratios: Sequence[float]) -> Ratio | None:
    """None of no ratios."""
    if not ratios:
        return None
    return Ratio(statistics.median(ratios), min(ratios), max(ratios), len(ratios))


def paired_ratio(
    result: ArmResult,
    baseline: ArmResult,
    measure: Callable[[Sequence[RequestRecord]], float | None],
) -> Ratio | None:
    """`measure` of the arm over that of the baseline, pass by pass: slow minutes cancel.

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
    return ratio_of(ratios)


def _answered(cell: Cell) -> dict[int, RequestRecord]:
    return {r.number: r for r in cell.requests if r.error is None and r.emissions}


def default_baseline(groups: Iterable[Group]) -> str | None:
    """The first of the usual baselines that was run anywhere."""
    names = {result.arm for group in groups for result in group.arms}
    return next((name for name in BASELINES if name in names), None)


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
    if group.workload.temperature > 0 or group.kind != LIVE:
        return {}
    reference = next((result for result in group.arms if result.answered), None)
    expected = {} if reference is None else _texts(reference)
    found: dict[str, Agreement] = {}
    for result in group.arms:
        answers = _texts(result)
        common = answers.keys() & expected.keys()
        if reference is not None and result is not reference and common:
            different = sum(answers[key] != expected[key] for key in common)
            found[result.arm] = Agreement(reference.arm, len(common), different)
    return found


def _texts(result: ArmResult) -> dict[tuple[int, int, int], str]:
    return {
        (*each.pass_key, number): request.output_sha256
        for each in result.placed
        for number, request in _answered(each.cell).items()
    }


def twins(groups: Sequence[Group]) -> dict[int, ArmResult]:
    """The simulation of a live arm at the same setting, by the number of the live one."""

    def key(group: Group) -> tuple[str, str, int]:
        return group.setting, group.model.name, group.num_replicas

    simulated = {key(group): group for group in groups if group.kind == SIM}
    pairs = [
        (live.number, simulated[key(group)].arm(live.arm))
        for group in groups
        if group.kind == LIVE and key(group) in simulated
        for live in group.arms
    ]
    return {number: sim for number, sim in pairs if sim is not None}

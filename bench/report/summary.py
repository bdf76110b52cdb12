"""The figures of one arm at one setting, over all its repeats."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench import measures
from bench.report.groups import ArmResult


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
    """None stands for what this arm has no figure of. Failed requests count in `sla` alone.

    `num_unsettled` are repeats under open-ended load that did not come to rest. `accept_length`
    and `acceptance` are None as well when the model's weights are random.
    """

    num_requests: int
    num_failed: int
    num_repeats: int
    ttft: Quantiles | None
    tbt: Quantiles | None
    gap: Quantiles | None
    accept_length: float | None
    acceptance: tuple[float, ...] | None
    bytes_up_per_token: float | None
    bytes_down_per_token: float | None
    cloud_step_mean_s: float | None
    cloud_step_deviation_s: float | None
    sla: float | None
    goodput_per_s: float | None
    num_unsettled: int


def summarise(result: ArmResult, limits: Limits) -> Summary:
    """Percentiles over the requests of all repeats together; goodput is the repeats' mean."""
    answered = result.answered
    steps = [step for cell in result.cells for step in cell.cloud_step_s]
    drafting = answered if result.cells[0].model.has_real_weights else []
    acceptance = measures.acceptance_by_position(drafting)
    cells = [cell for cell in result.cells if cell.requests]
    met = sum(
        measures.sla_attainment(cell, limits.ttft_s, limits.tbt_s) * len(cell.requests)
        for cell in cells
    )
    goodputs = [measures.goodput_per_s(cell, limits.ttft_s, limits.tbt_s) for cell in cells]
    return Summary(
        num_requests=len(result.requests),
        num_failed=result.num_failed,
        num_repeats=len(result.cells),
        ttft=quantiles([request.emissions[0][0] for request in answered]),
        tbt=quantiles([value for request in answered for value in measures.tbt_s(request)]),
        gap=quantiles([gap for request in answered for gap in measures.emission_gaps_s(request)]),
        accept_length=measures.accept_length(drafting) if acceptance else None,
        acceptance=tuple(acceptance) or None,
        bytes_up_per_token=measures.bytes_up_per_token(answered),
        bytes_down_per_token=measures.bytes_down_per_token(answered),
        cloud_step_mean_s=statistics.fmean(steps) if steps else None,
        cloud_step_deviation_s=statistics.pstdev(steps) if steps else None,
        sla=met / len(result.requests) if result.requests else None,
        goodput_per_s=statistics.fmean(goodputs) if goodputs else None,
        num_unsettled=sum(cell.steady is not None and not cell.steady.is_settled for cell in cells),
    )


def quantiles(values: Sequence[float]) -> Quantiles | None:
    """The three percentiles, None of no values."""
    if not values:
        return None
    return Quantiles(*(measures.percentile(values, percent) for percent in measures.PERCENTILES))

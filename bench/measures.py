"""TTFT, TBT and what follows from them; every definition in one place."""

import hashlib
import itertools
from collections.abc import Sequence

from bench.records import Cell, LinkRecord, RequestRecord

PERCENTILES = (50.0, 90.0, 99.0)


def ttft_s(request: RequestRecord) -> float | None:
    """From the request's arrival to its first piece of text at the client; None without one."""
    return request.emissions[0][0] if request.emissions else None


def tbt_s(request: RequestRecord) -> list[float]:
    """Time between tokens, one value per token after the first emission.

    Of `n` tokens that arrive at once, each counts the time since the emission before, divided by
    `n`; tokens of the first emission have none. The mean is then the time of the answer after its
    first piece over its tokens. A piece without a token of its own counts for none.
    """
    values: list[float] = []
    pieces = [piece for piece in request.emissions if piece[1] > 0]
    for (before_s, _), (time_s, count) in itertools.pairwise(pieces):
        values.extend([(time_s - before_s) / count] * count)
    return values


def emission_gaps_s(request: RequestRecord) -> list[float]:
    """Time between pieces as the reader sees them, whatever the tokens in each."""
    times = [time_s for time_s, _ in request.emissions]
    return [after - before for before, after in itertools.pairwise(times)]


def percentile(values: Sequence[float], percent: float) -> float:
    """By linear interpolation between the two nearest ranks, as numpy's default.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("expected at least one value")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def accept_length(requests: Sequence[RequestRecord]) -> float | None:
    """Tokens per round, the target's own token counted; None when nothing was verified."""
    rounds = sum(request.rounds for request in requests)
    if rounds == 0:
        return None
    return 1 + sum(sum(request.accepted_by_position) for request in requests) / rounds


def acceptance_by_position(requests: Sequence[RequestRecord]) -> list[float]:
    """Of the drafts sent at position i of a round, the share that was accepted."""
    length = max((len(request.drafted_by_position) for request in requests), default=0)
    shares = []
    for index in range(length):
        drafted = sum(_at(request.drafted_by_position, index) for request in requests)
        accepted = sum(_at(request.accepted_by_position, index) for request in requests)
        shares.append(accepted / drafted if drafted else 0.0)
    return shares


def stale_share(requests: Sequence[RequestRecord]) -> float | None:
    """Of the rows sent behind prompts, those that were of no use because a draft before them was
    refused. None without such rows."""
    num_stale = sum(request.stale_rows for request in requests)
    num_decided = sum(request.rounds + sum(request.drafted_by_position) for request in requests)
    return num_stale / (num_decided + num_stale) if num_decided + num_stale else None


def cloud_rows_per_token(cells: Sequence[Cell]) -> float | None:
    """Rows that clouds ran for each token behind an answer's first; prompts' rows are not counted.

    None where no steps are known, or no answer is longer than a token.
    """
    num_rows = sum(sum(cell.cloud_step_tokens) for cell in cells)
    requests = [request for cell in cells for request in cell.requests]
    num_tokens = sum(max(0, request.output_tokens - 1) for request in requests)
    if not num_rows or not num_tokens:
        return None
    return (num_rows - sum(request.prompt_tokens for request in requests)) / num_tokens


def bytes_up_per_token(requests: Sequence[RequestRecord]) -> float | None:
    """Bytes sent by the device, the prompt's included, over tokens of answers; None without one."""
    tokens = sum(request.output_tokens for request in requests)
    return sum(request.bytes_up for request in requests) / tokens if tokens else None


def bytes_down_per_token(requests: Sequence[RequestRecord]) -> float | None:
    """Bytes that came to the device over tokens of answers; None without one."""
    tokens = sum(request.output_tokens for request in requests)
    return sum(request.bytes_down for request in requests) / tokens if tokens else None


def rtt_s(link: LinkRecord) -> float:
    """The link's round trip: the median as measured, or twice the delay that was asked for."""
    measured = link.measured_rtt_s or {}
    return measured.get("p50", 2 * link.delay_s)


def output_sha256(requests: Sequence[RequestRecord]) -> str:
    """One hash over the answers of all requests, in the order of their numbers."""
    ordered = sorted(requests, key=lambda request: request.number)
    lines = "".join(f"{request.number} {request.output_sha256}\n" for request in ordered)
    return hashlib.sha256(lines.encode()).hexdigest()


def sla_attainment(cell: Cell, ttft_limit_s: float, tbt_limit_s: float) -> float:
    """Share of requests within both limits, TBT by the request's mean; failed ones are outside."""
    kept = [request for request in cell.requests if _meets(request, ttft_limit_s, tbt_limit_s)]
    return len(kept) / len(cell.requests) if cell.requests else 0.0


def goodput_per_s(cell: Cell, ttft_limit_s: float, tbt_limit_s: float) -> float:
    """Requests within both limits per second of the run, first arrival to last piece."""
    ends = [r.arrival_s + r.emissions[-1][0] for r in cell.requests if r.emissions]
    if not ends:
        return 0.0
    duration_s = max(ends) - min(request.arrival_s for request in cell.requests)
    met = sla_attainment(cell, ttft_limit_s, tbt_limit_s) * len(cell.requests)
    return met / duration_s if duration_s > 0 else 0.0


def _meets(request: RequestRecord, ttft_limit_s: float, tbt_limit_s: float) -> bool:
    first_s = ttft_s(request)
    if request.error is not None or first_s is None or first_s > ttft_limit_s:
        return False
    gaps = tbt_s(request)
    return not gaps or sum(gaps) / len(gaps) <= tbt_limit_s


def _at(counts: Sequence[int], index: int) -> int:
    return counts[index] if index < len(counts) else 0

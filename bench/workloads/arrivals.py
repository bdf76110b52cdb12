"""When requests come: all at once, at random, or as they were recorded."""

import random
from collections.abc import Sequence
from itertools import accumulate
from types import MappingProxyType

from bench.workloads.data_files import TraceRow, WorkloadError, trace_rows

CLOSED, POISSON = "closed", "poisson"
TRACES = MappingProxyType({"azure-conv": "azure_conv", "azure-code": "azure_code"})
ARRIVALS = (CLOSED, POISSON, *TRACES)
"""What `arrivals` knows."""


def arrivals(kind: str, num_requests: int, rate_per_s: float | None, seed: int) -> list[float]:
    """Seconds from the run's start at which requests come, in order.

    closed: all are there at the start, and a device asks when its last answer is complete; the
    rate is not used. poisson: gaps are exponential and independent. azure-conv and azure-code:
    consecutive requests of the recorded hour from a place that the seed chooses, all gaps divided
    by one number so that their mean is `1 / rate_per_s`; order and burstiness stay.

    Raises:
        WorkloadError: no such kind, or a kind that needs a rate has none.
    """
    if kind == CLOSED:
        return [0.0] * num_requests
    if kind not in ARRIVALS:
        raise WorkloadError(f"expected one of {', '.join(ARRIVALS)}, got {kind}")
    if rate_per_s is None or rate_per_s <= 0:
        raise WorkloadError(f"{kind} needs requests per second above 0, got {rate_per_s}")
    if kind == POISSON:
        source = random.Random(f"{POISSON}/{seed}")
        return list(accumulate(source.expovariate(rate_per_s) for _ in range(num_requests)))
    return _rescaled(trace_window(kind, num_requests, seed), rate_per_s)


def trace_window(kind: str, num_requests: int, seed: int) -> list[TraceRow]:
    """Consecutive requests of a recorded trace, the first at its own time of arrival.

    More than the trace has go on with its beginning, one mean gap after its end. The same seed
    gives `arrivals` and `lengths` the same requests.
    """
    rows = trace_rows(TRACES[kind])
    first = random.Random(f"{kind}/{seed}").randrange(max(1, len(rows) - num_requests + 1))
    period_s = rows[-1].arrival_s * len(rows) / (len(rows) - 1)
    window = []
    for number in range(first, first + num_requests):
        lap, place = divmod(number, len(rows))
        row = rows[place]
        arrival_s = row.arrival_s + lap * period_s
        window.append(TraceRow(arrival_s, row.prompt_tokens, row.output_tokens))
    return window


def _rescaled(window: Sequence[TraceRow], rate_per_s: float) -> list[float]:
    """From 0, with gaps of `1 / rate_per_s` in the mean. A window without any gap keeps none."""
    if not window:
        return []
    first_s, last_s = window[0].arrival_s, window[-1].arrival_s
    span_s = last_s - first_s
    scale = (len(window) - 1) / rate_per_s / span_s if span_s > 0 else 0.0
    return [(row.arrival_s - first_s) * scale for row in window]

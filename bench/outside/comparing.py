"""What a client and the endpoint say of a pass, and whether two clients agree."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from bench.live.processes import LiveError
from bench.measures import tbt_s, ttft_s
from bench.records import RequestRecord

_TTFT = "hat_time_to_first_token_seconds"
_PER_TOKEN = "hat_request_time_per_output_token_seconds"

HEAD = "| ms | ours | aiperf | difference | noise | within |\n|---|---|---|---|---|---|"


@dataclass(frozen=True, slots=True)
class Latency:
    """One request. `itl_s` is the mean time between its tokens."""

    ttft_s: float
    itl_s: float
    output_tokens: int


def latency_of(record: RequestRecord) -> Latency:
    """A request of our own client.

    Raises:
        LiveError: it failed, or its answer came in one piece.
    """
    first_s, gaps = ttft_s(record), tbt_s(record)
    if record.error is not None or first_s is None or not gaps:
        raise LiveError(f"request {record.number}: {record.error or 'fewer than two pieces'}")
    return Latency(first_s, statistics.fmean(gaps), record.output_tokens)


def server_sums(exposition: str) -> tuple[float, float, float]:
    """Of `/metrics`: requests until now, their times to the first token, their times per token."""
    sums = dict.fromkeys((f"{_TTFT}_count", f"{_TTFT}_sum", f"{_PER_TOKEN}_sum"), 0.0)
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name in sums:
                sums[sample.name] += sample.value
    num, first_s, per_token_s = sums.values()
    return num, first_s, per_token_s


def measures_s(
    found: Sequence[Latency], num_warm_up: int, server_ttft_s: float, server_itl_s: float
) -> dict[str, float]:
    """Of a pass by one client: by itself, by the endpoint in the mean, and itself less that.

    The last two are over all requests: the endpoint cannot tell warming up from the others.
    """
    ttfts, itls = [each.ttft_s for each in found], [each.itl_s for each in found]
    return {
        "TTFT, p50": statistics.median(ttfts[num_warm_up:]),
        "TTFT, mean": statistics.fmean(ttfts[num_warm_up:]),
        "ITL, p50": statistics.median(itls[num_warm_up:]),
        "ITL, mean": statistics.fmean(itls[num_warm_up:]),
        "the endpoint's TTFT, mean": server_ttft_s,
        "the endpoint's ITL, mean": server_itl_s,
        "TTFT beyond the endpoint's": statistics.fmean(ttfts) - server_ttft_s,
        "ITL beyond the endpoint's": statistics.fmean(itls) - server_itl_s,
    }


def row(name: str, ours_s: Sequence[float], theirs_s: Sequence[float]) -> str:
    """One measure in each pass of two clients, in seconds, as a Markdown line in milliseconds.

    The difference is theirs less ours, the median over pairs of neighbouring passes. Noise is how
    far apart our own client's passes are: what one client says of equal work. The clients agree if
    they differ by no more.
    """
    both = [
        f"{1e3 * statistics.median(one):.2f} ({1e3 * min(one):.2f} to {1e3 * max(one):.2f})"
        for one in (ours_s, theirs_s)
    ]
    apart_s = statistics.median(b - a for a, b in zip(ours_s, theirs_s, strict=True))
    noise_s = max(ours_s) - min(ours_s)
    agrees = "yes" if abs(apart_s) <= noise_s else "no"
    cells = [name, *both, f"{1e3 * apart_s:+.2f}", f"{1e3 * noise_s:.2f}", agrees]
    return f"| {' | '.join(cells)} |"

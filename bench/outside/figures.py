"""What a client and the endpoint say of a pass, and whether two clients agree."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.measures import tbt_s, ttft_s
from bench.records import RequestRecord


@dataclass(frozen=True, slots=True)
class Latency:
    """One request. `itl_s` is the mean time between its tokens."""

    ttft_s: float
    itl_s: float
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Pass:
    """Requests of one client, one after another; the means are the endpoint's over all of them."""

    warm_up: Sequence[Latency]
    counted: Sequence[Latency]
    server_ttft_s: float
    server_itl_s: float


def latency_of(record: RequestRecord) -> Latency:
    """A request of our own client.

    Raises:
        ValueError: it failed, or its answer came in one piece.
    """
    first_s, gaps = ttft_s(record), tbt_s(record)
    if record.error is not None or first_s is None or not gaps:
        raise ValueError(f"request {record.number}: {record.error or 'fewer than two pieces'}")
    return Latency(first_s, statistics.fmean(gaps), record.output_tokens)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure by two clients: its value in each pass, in seconds, and what follows."""

    name: str
    ours_s: Sequence[float]
    theirs_s: Sequence[float]

    @property
    def difference_s(self) -> float:
        """Theirs less ours: the median over pairs of neighbouring passes."""
        pairs = zip(self.ours_s, self.theirs_s, strict=True)
        return statistics.median(theirs - ours for ours, theirs in pairs)

    @property
    def noise_s(self) -> float:
        """How far apart our own client's passes are: what one client says of equal work."""
        return max(self.ours_s) - min(self.ours_s)

    @property
    def agrees(self) -> bool:
        """Whether the clients differ by no more than one does from itself."""
        return abs(self.difference_s) <= self.noise_s

    def row(self) -> str:
        """A line of a Markdown table, in milliseconds."""
        both = [
            f"{1e3 * statistics.median(one):.2f} ({1e3 * min(one):.2f} to {1e3 * max(one):.2f})"
            for one in (self.ours_s, self.theirs_s)
        ]
        apart = f"{1e3 * self.difference_s:+.2f} | {1e3 * self.noise_s:.2f}"
        return (
            f"| {self.name} | {both[0]} | {both[1]} | {apart} | {'yes' if self.agrees else 'no'} |"
        )


HEAD = "| ms | ours | aiperf | difference | noise | within |\n|---|---|---|---|---|---|"


def comparisons(ours: Sequence[Pass], theirs: Sequence[Pass]) -> list[Comparison]:
    """By the clients, by the endpoint while it served each of them, and the clients less that."""
    values = [[_measures(one) for one in client] for client in (ours, theirs)]
    return [
        Comparison(name, *([one[name] for one in client] for client in values))
        for name in values[0][0]
    ]


def _measures(one: Pass) -> dict[str, float]:
    """The last two are over all requests: the endpoint cannot tell warming up from the others."""
    ttfts, itls = [each.ttft_s for each in one.counted], [each.itl_s for each in one.counted]
    warm_ttfts, warm_itls = [each.ttft_s for each in one.warm_up], [e.itl_s for e in one.warm_up]
    return {
        "TTFT, p50": statistics.median(ttfts),
        "TTFT, mean": statistics.fmean(ttfts),
        "ITL, p50": statistics.median(itls),
        "ITL, mean": statistics.fmean(itls),
        "the endpoint's TTFT, mean": one.server_ttft_s,
        "the endpoint's ITL, mean": one.server_itl_s,
        "TTFT beyond the endpoint's": statistics.fmean(warm_ttfts + ttfts) - one.server_ttft_s,
        "ITL beyond the endpoint's": statistics.fmean(warm_itls + itls) - one.server_itl_s,
    }

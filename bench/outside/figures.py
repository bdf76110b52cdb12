"""What a client and the endpoint say of a pass, and whether two clients agree."""

import statistics
from collections.abc import Callable, Sequence
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
        cells = (
            self.name,
            _median_and_range(self.ours_s),
            _median_and_range(self.theirs_s),
            f"{1e3 * self.difference_s:+.2f}",
            f"{1e3 * self.noise_s:.2f}",
            "yes" if self.agrees else "no",
        )
        return f"| {' | '.join(cells)} |"


HEAD = "| ms | ours | aiperf | difference | noise | within |\n|---|---|---|---|---|---|"


def comparisons(ours: Sequence[Pass], theirs: Sequence[Pass]) -> list[Comparison]:
    """By the clients, by the endpoint while it served each of them, and the clients less that.

    The last two are over all requests, warming up counted: the endpoint cannot tell them apart.
    """
    return [
        Comparison(name, [value(one) for one in ours], [value(one) for one in theirs])
        for name, value in _MEASURES.items()
    ]


def _ttft_mean_s(one: Pass) -> float:
    return statistics.fmean(each.ttft_s for each in (*one.warm_up, *one.counted))


def _itl_mean_s(one: Pass) -> float:
    return statistics.fmean(each.itl_s for each in (*one.warm_up, *one.counted))


_MEASURES: dict[str, Callable[[Pass], float]] = {
    "TTFT, p50": lambda one: statistics.median(each.ttft_s for each in one.counted),
    "TTFT, mean": lambda one: statistics.fmean(each.ttft_s for each in one.counted),
    "ITL, p50": lambda one: statistics.median(each.itl_s for each in one.counted),
    "ITL, mean": lambda one: statistics.fmean(each.itl_s for each in one.counted),
    "the endpoint's TTFT, mean": lambda one: one.server_ttft_s,
    "the endpoint's ITL, mean": lambda one: one.server_itl_s,
    "TTFT beyond the endpoint's": lambda one: _ttft_mean_s(one) - one.server_ttft_s,
    "ITL beyond the endpoint's": lambda one: _itl_mean_s(one) - one.server_itl_s,
}


def _median_and_range(values_s: Sequence[float]) -> str:
    middle = statistics.median(values_s)
    return f"{1e3 * middle:.2f} ({1e3 * min(values_s):.2f} to {1e3 * max(values_s):.2f})"

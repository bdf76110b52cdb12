"""Simulated beside live, and the paper's figures beside ours."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench import measures
from bench.records import Comparison, RequestRecord
from bench.report.groups import LIVE, SIM, ArmResult, Group, Source

# What the simulator is held to, and what a ratio of the paper is held to.
SIM_TOLERANCE = 0.10
PAPER_TOLERANCE = 0.15


@dataclass(frozen=True, slots=True)
class SimulatedRow:
    """One arm at one setting, medians in seconds, live and simulated."""

    setting: str
    live: ArmResult
    sim: ArmResult
    live_ttft_s: float | None
    sim_ttft_s: float | None
    live_tbt_s: float | None
    sim_tbt_s: float | None

    @property
    def ttft_difference(self) -> float | None:
        """Simulated over live, minus one."""
        return _difference(self.sim_ttft_s, self.live_ttft_s)

    @property
    def tbt_difference(self) -> float | None:
        """Simulated over live, minus one."""
        return _difference(self.sim_tbt_s, self.live_tbt_s)

    @property
    def notes(self) -> str:
        """What the simulated cells say about themselves."""
        return "; ".join(dict.fromkeys(note for cell in self.sim.cells for note in cell.notes))


@dataclass(frozen=True, slots=True)
class PaperRow:
    """A figure of the paper beside ours."""

    comparison: Comparison
    source: Source

    @property
    def ratio(self) -> float | None:
        """Ours over the paper's."""
        paper = self.comparison.paper
        return self.comparison.ours / paper if paper else None

    @property
    def is_far_off(self) -> bool:
        """Beyond the tolerance."""
        return self.ratio is None or abs(self.ratio - 1) > PAPER_TOLERANCE


def simulated_rows(groups: Sequence[Group]) -> list[SimulatedRow]:
    """Arms that were both run and simulated at the same setting."""
    simulated = {_key(group): group for group in groups if group.kind == SIM}
    rows = []
    for group in groups:
        other = simulated.get(_key(group)) if group.kind == LIVE else None
        for live in group.arms if other else ():
            sim = other.arm(live.arm) if other else None
            if sim is not None:
                rows.append(_row(group.name, live, sim))
    return rows


def paper_rows(sources: Iterable[Source]) -> list[PaperRow]:
    """What the files hold, in their order."""
    return [PaperRow(each, source) for source in sources for each in source.run.comparisons]


def is_close(difference: float | None) -> bool:
    """Within what the simulator is held to."""
    return difference is not None and abs(difference) <= SIM_TOLERANCE


def _key(group: Group) -> tuple[str, str, int]:
    return group.setting, group.model.name, group.num_replicas


def _row(setting: str, live: ArmResult, sim: ArmResult) -> SimulatedRow:
    return SimulatedRow(
        setting,
        live,
        sim,
        _median(live, lambda request: [request.emissions[0][0]]),
        _median(sim, lambda request: [request.emissions[0][0]]),
        _median(live, measures.tbt_s),
        _median(sim, measures.tbt_s),
    )


def _median(result: ArmResult, values_of: Callable[[RequestRecord], list[float]]) -> float | None:
    values = [value for request in result.answered for value in values_of(request)]
    return measures.percentile(values, 50) if values else None


def _difference(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or not theirs else ours / theirs - 1

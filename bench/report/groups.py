"""Cells of all files, sorted into settings and arms; the rest of the report reads only these."""

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench import measures
from bench.arms import arm_names
from bench.records import Cell, RequestRecord, Run, read_run

LIVE, SIM = "live", "sim"

ARM_ORDER = tuple(arm_names())
"""In which arms are told; others follow by their names."""


@dataclass(frozen=True, slots=True)
class Source:
    """A result file. `number` counts from 1, in the order the files were given."""

    number: int
    path: Path
    sha256: str
    run: Run


@dataclass(frozen=True, slots=True)
class PlacedCell:
    """A cell and the file it stands in."""

    cell: Cell
    source: Source

    @property
    def pass_key(self) -> tuple[int, int]:
        """Cells of different arms with the same key were measured in the same pass."""
        return self.source.number, self.cell.repeat


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of one quantity in seconds."""

    p50: float
    p90: float
    p99: float


def quantiles(values: Sequence[float]) -> Quantiles | None:
    """The three percentiles, None of no values."""
    if not values:
        return None
    return Quantiles(*(measures.percentile(values, percent) for percent in (50, 90, 99)))


@dataclass(frozen=True)
class ArmResult:
    """All repeats of one arm at one setting. `number` is of the arm's receipt in the page.

    Percentiles are over the requests of all repeats together; None stands for what the arm has no
    figure of.
    """

    number: int
    arm: str
    placed: tuple[PlacedCell, ...]

    @cached_property
    def cells(self) -> list[Cell]:
        """The repeats, in the order of files and passes."""
        return [each.cell for each in self.placed]

    @cached_property
    def requests(self) -> list[RequestRecord]:
        """Requests of all repeats, failed ones too."""
        return [request for cell in self.cells for request in cell.requests]

    @cached_property
    def answered(self) -> list[RequestRecord]:
        """Requests that ended without an error and with some text."""
        return [each for each in self.requests if each.error is None and each.emissions]

    @property
    def num_failed(self) -> int:
        """Requests that ended with an error, or without a piece of text."""
        return len(self.requests) - len(self.answered)

    @cached_property
    def ttft(self) -> Quantiles | None:
        """Over answered requests."""
        return quantiles([one.emissions[0][0] for one in self.answered])

    @cached_property
    def tbt(self) -> Quantiles | None:
        """Over tokens after the first piece."""
        return quantiles([value for one in self.answered for value in measures.tbt_s(one)])

    @property
    def gap(self) -> Quantiles | None:
        """Over pieces, whatever the tokens in each."""
        return quantiles([gap for one in self.answered for gap in measures.emission_gaps_s(one)])

    @property
    def accept_length(self) -> float | None:
        """Tokens per round; None as well when the model's weights are random."""
        return measures.accept_length(self.answered) if self.acceptance else None

    @property
    def acceptance(self) -> list[float]:
        """By position; empty where `accept_length` is None."""
        is_real = self.cells[0].model.has_real_weights
        return measures.acceptance_by_position(self.answered) if is_real else []

    @property
    def unsettled(self) -> list[str]:
        """Of repeats under open-ended load that did not come to rest: in words."""
        states = [cell.steady for cell in self.cells if cell.steady is not None]
        return [steady.text for steady in states if not steady.is_settled]


@dataclass(frozen=True, slots=True)
class Group:
    """One setting of one kind of run: its arms differ in nothing but the method."""

    number: int
    kind: str
    like: Cell
    """Its first cell: all share its setting, model, workload, replicas, and link as asked for."""
    arms: tuple[ArmResult, ...]

    @property
    def name(self) -> str:
        """What tells it from the other settings of its kind."""
        return f"{self.like.model.name}, {self.like.setting}"

    @property
    def weights(self) -> str:
        """What is behind the model's answers, in two words."""
        if self.like.model.has_real_weights:
            return "real weights"
        return "no weights" if self.kind == SIM else "random weights"

    @property
    def anchor(self) -> str:
        """Where the page has it."""
        return f"setting-{self.number}"

    def arm(self, name: str | None) -> ArmResult | None:
        """The arm of that name, if it was run."""
        return next((each for each in self.arms if each.arm == name), None)


def read_sources(paths: Sequence[Path]) -> list[Source]:
    """Read result files; one given twice is read once.

    Raises:
        RunFileError: one of them is no run.
    """
    sources: dict[str, Source] = {}
    for path in paths:
        run = read_run(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        sources.setdefault(sha256, Source(len(sources) + 1, path, sha256, run))
    return list(sources.values())


def group_cells(sources: Iterable[Source]) -> list[Group]:
    """Settings in the order in which they first appear, live ones before simulated ones."""
    by_setting: dict[tuple[str | int, ...], list[PlacedCell]] = {}
    for source in sources:
        for cell in source.run.cells:
            what = (cell.setting, cell.model.name, cell.num_replicas, cell.link.kind)
            by_setting.setdefault((source.run.kind, *what), []).append(PlacedCell(cell, source))
    receipts = itertools.count(1)
    groups: list[Group] = []
    for placed in sorted(by_setting.values(), key=lambda each: each[0].source.run.kind != LIVE):
        by_arm: dict[str, list[PlacedCell]] = {}
        for each in placed:
            by_arm.setdefault(each.cell.arm, []).append(each)
        arms = [
            ArmResult(next(receipts), arm, tuple(by_arm[arm]))
            for arm in sorted(by_arm, key=arm_order)
        ]
        kind, like = placed[0].source.run.kind, placed[0].cell
        groups.append(Group(len(groups) + 1, kind, like, tuple(arms)))
    return groups


def arm_order(name: str) -> tuple[int, str]:
    """Sorting key of arms."""
    return (ARM_ORDER.index(name) if name in ARM_ORDER else len(ARM_ORDER), name)

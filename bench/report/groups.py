"""Cells of all files, sorted into settings and arms; the rest of the report reads only these."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.arms import arm_names
from bench.records import (
    Cell,
    LinkRecord,
    ModelRecord,
    RequestRecord,
    Run,
    WorkloadRecord,
    read_run,
)

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


@dataclass(frozen=True)
class ArmResult:
    """All repeats of one arm at one setting. `number` is of the arm's receipt in the page."""

    arm: str
    placed: tuple[PlacedCell, ...]
    number: int

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

    @property
    def notes(self) -> list[str]:
        """What the cells say of themselves, each once."""
        return list(dict.fromkeys(note for cell in self.cells for note in cell.notes))


@dataclass(frozen=True, slots=True)
class Group:
    """One setting of one kind of run: its arms differ in nothing but the method."""

    number: int
    kind: str
    setting: str
    num_replicas: int
    model: ModelRecord
    link: LinkRecord
    """As asked for, and as the first cell measured it."""
    workload: WorkloadRecord
    arms: tuple[ArmResult, ...]

    @property
    def name(self) -> str:
        """What tells it from the other settings of its kind."""
        return f"{self.model.name}, {self.setting}"

    @property
    def weights(self) -> str:
        """What is behind the model's answers, in two words."""
        if self.model.has_real_weights:
            return "real weights"
        return "no weights" if self.kind == SIM else "random weights"

    def arm(self, name: str | None) -> ArmResult | None:
        """The arm of that name, if it was run."""
        return next((each for each in self.arms if each.arm == name), None)


def read_sources(paths: Sequence[Path]) -> list[Source]:
    """Read result files; one given twice is read once.

    Raises:
        RunFileError: one of them is no run.
    """
    sources: list[Source] = []
    for path in paths:
        run = read_run(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        if all(sha256 != source.sha256 for source in sources):
            sources.append(Source(len(sources) + 1, path, sha256, run))
    return sources


def group_cells(sources: Iterable[Source]) -> list[Group]:
    """Settings in the order in which they first appear, live ones before simulated ones."""
    by_setting: dict[tuple[str, ...], list[PlacedCell]] = {}
    for source in sources:
        for cell in source.run.cells:
            what = (cell.setting, cell.model.name, str(cell.num_replicas), cell.link.kind)
            by_setting.setdefault((source.run.kind, *what), []).append(PlacedCell(cell, source))
    ordered = sorted(by_setting.items(), key=lambda item: item[0][0] != LIVE)
    groups: list[Group] = []
    num_arms = 0
    for number, (_, placed) in enumerate(ordered, start=1):
        arms = _arms(placed, num_arms)
        num_arms += len(arms)
        kind, cell = placed[0].source.run.kind, placed[0].cell
        asked = (cell.setting, cell.num_replicas, cell.model, cell.link, cell.workload)
        groups.append(Group(number, kind, *asked, arms))
    return groups


def arm_order(name: str) -> tuple[int, str]:
    """Sorting key of arms."""
    return (ARM_ORDER.index(name) if name in ARM_ORDER else len(ARM_ORDER), name)


def _arms(placed: Sequence[PlacedCell], num_before: int) -> tuple[ArmResult, ...]:
    names = sorted({each.cell.arm for each in placed}, key=arm_order)
    return tuple(
        ArmResult(name, tuple(each for each in placed if each.cell.arm == name), num_before + place)
        for place, name in enumerate(names, start=1)
    )

"""The paper's figures beside the simulated ones, ratio by ratio: as text, and as records that say
why each is off where it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from types import MappingProxyType

from bench.measures import accept_length, tbt_s, ttft_s
from bench.records import PAPER_TOLERANCE, Cell, Comparison
from bench.sim.settings.paper import (
    ABLATION,
    ALL_ROWS,
    CNN_13B,
    MAIN_ARMS,
    QUIET_PER_S,
    SPEC_7B,
    PaperWorkload,
)

Figures = Mapping[str, float]

_TTFT_MS: Mapping[str, Figures] = MappingProxyType(
    {
        SPEC_7B.name: {"hat": 384.2, "u-sarathi": 609.2, "u-medusa": 644.6, "u-shape": 646.2},
        CNN_13B.name: {"hat": 1027.4, "u-sarathi": 1750.6, "u-medusa": 2214.8, "u-shape": 2140.8},
    }
)
_TBT_SHARE: Mapping[str, Figures] = MappingProxyType(
    {
        SPEC_7B.name: {"u-sarathi": 1 - 0.319, "u-medusa": 1 - 0.225, "u-shape": 1 - 0.413},
        CNN_13B.name: {"u-sarathi": 1 - 0.408, "u-medusa": 1 - 0.772, "u-shape": 1 - 0.747},
    }
)
"""HAT's TBT as a part of each baseline's."""

_ABLATION_MS: Mapping[str, Mapping[str, tuple[float | None, float | None]]] = MappingProxyType(
    {
        SPEC_7B.name: {
            "none": (655.6, 52.3),
            "PC": (384.0, 39.4),
            "SD": (655.3, 38.3),
            "SD+PC": (384.3, 30.6),
            "SD+PC+PD": (384.2, 26.4),
        },
        CNN_13B.name: {
            "none": (1989.0, 128.1),
            "PC": (1038.7, 74.2),
            "SD": (None, None),
            "SD+PC": (1039.1, 49.3),
            "SD+PC+PD": (1039.9, 43.5),
        },
    }
)
"""TTFT and TBT. Source of all: HAT (arXiv:2503.18989), as read in a secondary note of it."""

_LAST_ROW = (
    "only the last prompt row comes back here; the paper's ratios come out when its baselines "
    "return every row"
)
_ALL_ROWS = (
    "at the paper's rates a device's next request comes before its answer ends, and two share its "
    "link and engine; at 0.5 requests per second the ratio is nearer"
)
_ABLATION_NOTES: Mapping[str, str] = MappingProxyType(
    {
        "PC": "the ablation's rate is not given in the paper",
        "SD": "drafts to the end look at more than three guesses per round, 13 ms each on a Xavier",
        "SD+PC": "drafts to the end look at more than three guesses per round",
        "SD+PC+PD": "a continuation is of use only behind a draft accepted whole, rare at 2 tokens",
    }
)

_Cells = Mapping[tuple[str, str], Cell]
_ALL_ARMS = (*MAIN_ARMS, *(arm + ALL_ROWS for arm in MAIN_ARMS[:3]))


@dataclass(frozen=True, slots=True)
class _Figure:
    """An arm's mean in milliseconds, and the ratio that the table is about; the paper's of both,
    where they are known. `last` stands in the table's last column."""

    arm: str
    paper_ms: float | None
    paper_ratio: float | None
    ms: float
    ratio: float
    last: float | None = None

    @property
    def is_near(self) -> bool:
        """Whether the ratio is the paper's, as far as it is held to that."""
        return self.paper_ratio is None or abs(self.ratio / self.paper_ratio - 1) <= PAPER_TOLERANCE

    def line(self, what: str = "") -> str:
        """As a row of its table."""
        off = "" if self.paper_ratio is None else f"{self.ratio / self.paper_ratio - 1:+.0%}"
        off += "" if self.is_near else " *"
        figures = (self.paper_ms, self.paper_ratio, self.ms, self.ratio, off, self.last)
        return _row(f"{what}{self.arm}", *figures)


def lines(cells: Sequence[Cell]) -> list[str]:
    """The tables as text."""
    by_place = _by_place(cells)
    text: list[str] = []
    for workload in (SPEC_7B, CNN_13B):
        setting = f"{workload.name} {workload.requests_per_s:g}/s"
        for place in (setting, f"{workload.name} {QUIET_PER_S:g}/s"):
            rows = [each.line() for each in _ttft(workload, place, by_place)]
            text += _table(f"TTFT, {place}: mean ms, and HAT's as a part of it", "accept", rows)
        place = f"{workload.name} 4/s"
        rows = [each.line() for each in _tbt(workload, place, by_place)]
        text += _table(f"TBT, {place}: mean ms, and HAT's as a part of it", "step ms", rows)
        rows = [
            each.line(f"{metric} ")
            for metric in ("TTFT", "TBT")
            for each in _ablation(workload, setting, by_place, metric)
        ]
        title = f"Ablation, {setting}: mean ms, and as a part of none's"
        text += _table(title, "", rows, first="variant")
    return text


def comparisons(cells: Sequence[Cell]) -> list[Comparison]:
    """HAT's TTFT as a part of each baseline's, and each ablation's TBT as a part of none's."""
    by_place = _by_place(cells)
    found: list[Comparison] = []
    for workload in (SPEC_7B, CNN_13B):
        setting = f"{workload.name} {workload.requests_per_s:g}/s"
        for each in _ttft(workload, setting, by_place):
            if not each.arm.startswith("hat"):
                note = _ALL_ROWS if each.arm.endswith(ALL_ROWS) else _LAST_ROW
                found += _beside(each, f"{setting}: HAT / {each.arm}", "TTFT ratio", note)
        for each in _ablation(workload, setting, by_place, "TBT"):
            if each.arm != "none":
                note = _ABLATION_NOTES[each.arm]
                found += _beside(each, f"{setting}: {each.arm}", "TBT as a part of none's", note)
    return found


def _beside(figure: _Figure, name: str, metric: str, note: str) -> list[Comparison]:
    """A record of a ratio that the paper tells; the note is for one that is far off."""
    if figure.paper_ratio is None:
        return []
    paper, ours = round(figure.paper_ratio, 4), round(figure.ratio, 4)
    note = "" if figure.is_near else note
    return [Comparison(name=name, metric=metric, paper=paper, ours=ours, note=note)]


def _by_place(cells: Sequence[Cell]) -> _Cells:
    return {(cell.setting, cell.arm): cell for cell in cells}


def _ttft(workload: PaperWorkload, setting: str, cells: _Cells) -> list[_Figure]:
    paper = _TTFT_MS[workload.name]
    hat_ms = _ttft_ms(cells[setting, "hat-paper"])
    figures = []
    for arm in _ALL_ARMS:
        cell = cells[setting, arm]
        ms = _ttft_ms(cell)
        paper_ms = paper["hat" if arm.startswith("hat") else arm.removesuffix(ALL_ROWS)]
        accepted = accept_length(cell.requests) or 1.0
        figures.append(_Figure(arm, paper_ms, paper["hat"] / paper_ms, ms, hat_ms / ms, accepted))
    return figures


def _tbt(workload: PaperWorkload, setting: str, cells: _Cells) -> list[_Figure]:
    paper = _TBT_SHARE[workload.name]
    hat_ms = _tbt_ms(cells[setting, "hat-paper"])
    figures = []
    for arm in MAIN_ARMS:
        ms, step_ms = _tbt_ms(cells[setting, arm]), 1000 * mean(cells[setting, arm].cloud_step_s)
        figures.append(_Figure(arm, None, paper.get(arm), ms, hat_ms / ms, step_ms))
    return figures


def _ablation(workload: PaperWorkload, setting: str, cells: _Cells, metric: str) -> list[_Figure]:
    place, measure = (0, _ttft_ms) if metric == "TTFT" else (1, _tbt_ms)
    paper = _ABLATION_MS[workload.name]
    none_ms, paper_none_ms = measure(cells[setting, "none"]), paper["none"][place]
    assert paper_none_ms is not None, "the paper has a figure to compare with"
    figures = []
    for arm in ABLATION:
        ms, paper_ms = measure(cells[setting, arm]), paper[arm][place]
        paper_ratio = None if paper_ms is None else paper_ms / paper_none_ms
        figures.append(_Figure(arm, paper_ms, paper_ratio, ms, ms / none_ms))
    return figures


def _ttft_ms(cell: Cell) -> float:
    """Over the requests that got a token."""
    values = [first_s for request in cell.requests if (first_s := ttft_s(request)) is not None]
    return 1000 * mean(values)


def _tbt_ms(cell: Cell) -> float:
    """Over all tokens behind a first piece."""
    return 1000 * mean(gap_s for request in cell.requests for gap_s in tbt_s(request))


def _table(title: str, last: str, rows: Sequence[str], first: str = "arm") -> list[str]:
    head = _row(first, "paper", "ratio", "simulated", "ratio", "off by", last)
    return [title, head, *rows, ""]


def _row(name: str, *values: float | str | None) -> str:
    return f"{name:20}" + "".join(f"{_text(value):>12}" for value in values)


def _text(value: float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:.2f}" if abs(value) < 20 else f"{value:.1f}"

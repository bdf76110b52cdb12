"""The paper's figures beside the simulated ones, ratio by ratio: as text, and as records that say
why each is off where it is."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from types import MappingProxyType

from bench.measures import accept_length, tbt_s, ttft_s
from bench.records import Cell, Comparison
from bench.sim.arms import MEDUSA
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

_WITHIN = 0.15


def lines(cells: Sequence[Cell]) -> list[str]:
    """The tables as text."""
    by_place = {(cell.setting, cell.arm): cell for cell in cells}
    text: list[str] = []
    for workload in (SPEC_7B, CNN_13B):
        setting = f"{workload.name} {workload.requests_per_s:g}/s"
        quiet = f"{workload.name} {QUIET_PER_S:g}/s"
        text += [*_ttft_lines(workload, setting, by_place), ""]
        text += [*_ttft_lines(workload, quiet, by_place), ""]
        text += [*_tbt_lines(workload, by_place), ""]
        text += [*_ablation_lines(workload, setting, by_place), ""]
    return text


def _ttft_ms(cell: Cell) -> float:
    """Over the requests that got a token."""
    values = [first_s for request in cell.requests if (first_s := ttft_s(request)) is not None]
    return 1000 * mean(values)


def _tbt_ms(cell: Cell) -> float:
    """Over all tokens behind a first piece."""
    return 1000 * mean(gap_s for request in cell.requests for gap_s in tbt_s(request))


_Cells = Mapping[tuple[str, str], Cell]


def _ttft_lines(workload: PaperWorkload, setting: str, cells: _Cells) -> list[str]:
    paper = _TTFT_MS[workload.name]
    hat_ms = _ttft_ms(cells[setting, "hat-paper"])
    rows = [f"TTFT, {setting}: mean ms, and HAT's as a part of it"]
    rows.append(_row("arm", "paper", "ratio", "simulated", "ratio", "off by", "accept"))
    for name in (*MAIN_ARMS, *(arm + ALL_ROWS for arm in MAIN_ARMS[:3])):
        cell = cells[setting, name]
        ms = _ttft_ms(cell)
        known_ms = paper.get("hat" if name.startswith("hat") else name.removesuffix(ALL_ROWS))
        paper_ratio = None if known_ms is None else paper["hat"] / known_ms
        tail = _compared(paper_ratio, hat_ms / ms)
        accepted = accept_length(cell.requests) or 1.0
        rows.append(_row(name, known_ms, paper_ratio, ms, hat_ms / ms, tail, accepted))
    return rows


def _tbt_lines(workload: PaperWorkload, cells: _Cells) -> list[str]:
    setting = f"{workload.name} 4/s"
    hat_ms = _tbt_ms(cells[setting, "hat-paper"])
    rows = [f"TBT, {setting}: mean ms, and HAT's as a part of it"]
    rows.append(_row("arm", "paper", "ratio", "simulated", "ratio", "off by", "step ms"))
    for name in MAIN_ARMS:
        cell = cells[setting, name]
        ms, paper_ratio = _tbt_ms(cell), _TBT_SHARE[workload.name].get(name)
        tail = _compared(paper_ratio, hat_ms / ms)
        step_ms = 1000 * mean(cell.cloud_step_s)
        rows.append(_row(name, None, paper_ratio, ms, hat_ms / ms, tail, step_ms))
    return rows


def _ablation_lines(workload: PaperWorkload, setting: str, cells: _Cells) -> list[str]:
    paper = _ABLATION_MS[workload.name]
    none = cells[setting, "none"]
    base_ttft, base_tbt = paper["none"]
    rows = [f"Ablation, {setting}: mean ms, and as a part of none's"]
    rows.append(_row("variant", "paper", "ratio", "simulated", "ratio", "off by", ""))
    for what, index, measure in (("TTFT", 0, _ttft_ms), ("TBT", 1, _tbt_ms)):
        base = (base_ttft, base_tbt)[index]
        for name in ABLATION:
            ms = measure(cells[setting, name])
            known = paper[name][index]
            paper_ratio = None if known is None or base is None else known / base
            ratio = ms / measure(none)
            tail = _compared(paper_ratio, ratio)
            rows.append(_row(f"{what} {name}", known, paper_ratio, ms, ratio, tail, None))
    return rows


def _compared(paper: float | None, simulated: float) -> str:
    if paper is None:
        return ""
    off = simulated / paper - 1
    return f"{off:+.0%}" + ("" if abs(off) <= _WITHIN else " *")


def _row(name: str, *values: float | str | None) -> str:
    return f"{name:20}" + "".join(f"{_cell(value):>12}" for value in values)


def _cell(value: float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:.2f}" if abs(value) < 20 else f"{value:.1f}"


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


def comparisons(cells: Sequence[Cell]) -> list[Comparison]:
    """HAT's TTFT as a part of each baseline's, and each ablation's TBT as a part of none's."""
    by_place = {(cell.setting, cell.arm): cell for cell in cells}
    found: list[Comparison] = []
    for workload in (SPEC_7B, CNN_13B):
        setting = f"{workload.name} {workload.requests_per_s:g}/s"
        found += _ttft_comparisons(workload, setting, by_place)
        found += _ablation_comparisons(workload, setting, by_place)
    return found


def _ttft_comparisons(workload: PaperWorkload, setting: str, cells: _Cells) -> Iterator[Comparison]:
    paper = _TTFT_MS[workload.name]
    hat_ms = _ttft_ms(cells[setting, "hat-paper"])
    for name in (*MAIN_ARMS[:3], *(arm + ALL_ROWS for arm in MAIN_ARMS[:3])):
        plain = name.removesuffix(ALL_ROWS)
        assert plain in ("u-shape", "u-sarathi", MEDUSA), "the paper's baselines come first"
        yield _comparison(
            f"{setting}: HAT / {name}",
            "TTFT ratio",
            paper["hat"] / paper[plain],
            hat_ms / _ttft_ms(cells[setting, name]),
            _ALL_ROWS if name.endswith(ALL_ROWS) else _LAST_ROW,
        )


def _ablation_comparisons(
    workload: PaperWorkload, setting: str, cells: _Cells
) -> Iterator[Comparison]:
    paper = _ABLATION_MS[workload.name]
    none_ms, paper_none_ms = _tbt_ms(cells[setting, "none"]), paper["none"][1]
    for name in ABLATION[1:]:
        known_ms = paper[name][1]
        if known_ms is None or paper_none_ms is None:
            continue
        ratio = _tbt_ms(cells[setting, name]) / none_ms
        metric = "TBT as a part of none's"
        known = known_ms / paper_none_ms
        yield _comparison(f"{setting}: {name}", metric, known, ratio, _ABLATION_NOTES[name])


def _comparison(name: str, metric: str, paper: float, ours: float, note: str) -> Comparison:
    is_near = abs(ours / paper - 1) <= _WITHIN
    return Comparison(
        name=name,
        metric=metric,
        paper=round(paper, 4),
        ours=round(ours, 4),
        note="" if is_near else note,
    )

"""The paper's ratios beside ours as records, each with why it is off where it is."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from bench.records import Cell, Comparison
from bench.sim.arms import MEDUSA
from bench.sim.paper import ABLATION, ALL_ROWS, CNN_13B, MAIN_ARMS, SPEC_7B, PaperWorkload
from bench.sim.paper_table import ABLATION_MS, TTFT_MS, WITHIN, mean_tbt_ms, mean_ttft_ms

_Cells = Mapping[tuple[str, str], Cell]

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
        found += _ttft(workload, setting, by_place)
        found += _ablation(workload, setting, by_place)
    return found


def _ttft(workload: PaperWorkload, setting: str, cells: _Cells) -> Iterator[Comparison]:
    paper = TTFT_MS[workload.name]
    hat_ms = mean_ttft_ms(cells[setting, "hat-paper"])
    for name in (*MAIN_ARMS[:3], *(arm + ALL_ROWS for arm in MAIN_ARMS[:3])):
        plain = name.removesuffix(ALL_ROWS)
        assert plain in ("u-shape", "u-sarathi", MEDUSA), "the paper's baselines come first"
        yield _comparison(
            f"{setting}: HAT / {name}",
            "TTFT ratio",
            paper["hat"] / paper[plain],
            hat_ms / mean_ttft_ms(cells[setting, name]),
            _ALL_ROWS if name.endswith(ALL_ROWS) else _LAST_ROW,
        )


def _ablation(workload: PaperWorkload, setting: str, cells: _Cells) -> Iterator[Comparison]:
    paper = ABLATION_MS[workload.name]
    none_ms, paper_none_ms = mean_tbt_ms(cells[setting, "none"]), paper["none"][1]
    for name in ABLATION[1:]:
        known_ms = paper[name][1]
        if known_ms is None or paper_none_ms is None:
            continue
        ratio = mean_tbt_ms(cells[setting, name]) / none_ms
        metric = "TBT as a part of none's"
        known = known_ms / paper_none_ms
        yield _comparison(f"{setting}: {name}", metric, known, ratio, _ABLATION_NOTES[name])


def _comparison(name: str, metric: str, paper: float, ours: float, note: str) -> Comparison:
    is_near = abs(ours / paper - 1) <= WITHIN
    return Comparison(
        name=name,
        metric=metric,
        paper=round(paper, 4),
        ours=round(ours, 4),
        note="" if is_near else note,
    )

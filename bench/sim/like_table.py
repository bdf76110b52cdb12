"""Live and simulated medians side by side."""

from collections import defaultdict
from collections.abc import Sequence

from bench.measures import accept_length, percentile, tbt_s, ttft_s
from bench.records import Cell

WITHIN = 0.1

_HEADER = ("TTFT live", "sim", "off", "TBT live", "sim", "off", "accept", "sim")

Place = tuple[str, str, str]


def lines(live: Sequence[Cell], simulated: Sequence[Cell]) -> list[str]:
    """A row per model, setting and arm, over all passes, in milliseconds; `*` is beyond 10 %."""
    measured, computed = _gathered(live), _gathered(simulated)
    text = [f"{'model, setting, arm':78}" + "".join(f"{name:>10}" for name in _HEADER)]
    num_near, num_rows = 0, 0
    for place, cells in measured.items():
        if place not in computed:
            continue
        figures = []
        is_near = True
        for of_live, of_sim in zip(medians(cells), medians(computed[place]), strict=True):
            off = of_sim / of_live - 1
            is_near &= abs(off) <= WITHIN
            mark = "*" if abs(off) > WITHIN else " "
            figures += [f"{1000 * of_live:.1f}", f"{1000 * of_sim:.1f}", f"{off:+.0%}{mark}"]
        for group in (cells, computed[place]):
            accepted = accept_length([r for cell in group for r in cell.requests])
            figures.append("-" if accepted is None else f"{accepted:.2f}")
        num_near, num_rows = num_near + is_near, num_rows + 1
        text.append(f"{', '.join(place):78}" + "".join(f"{figure:>10}" for figure in figures))
    text.append(f"{num_near} of {num_rows} rows have both medians within {WITHIN:.0%}")
    return text


def medians(cells: Sequence[Cell]) -> tuple[float, float]:
    """Median TTFT of the requests, and median TBT of their tokens."""
    requests = [request for cell in cells for request in cell.requests]
    firsts = [s for request in requests if (s := ttft_s(request)) is not None]
    gaps = [gap_s for request in requests for gap_s in tbt_s(request)]
    return percentile(firsts, 50), percentile(gaps, 50)


def _gathered(cells: Sequence[Cell]) -> dict[Place, list[Cell]]:
    found: defaultdict[Place, list[Cell]] = defaultdict(list)
    for cell in cells:
        found[cell.model.name, cell.setting, cell.arm].append(cell)
    return dict(found)

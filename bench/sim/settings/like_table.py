"""Live and simulated medians side by side.

`steps` is how much longer the live cloud's steps took than the simulated ones of the same rows: a
machine that was busier or quieter in that cell than in those that were learned from, which no
table can know.
"""

from collections import defaultdict
from collections.abc import Sequence

from bench.measures import accept_length, percentile, tbt_s, ttft_s
from bench.records import Cell
from bench.sim.settings.calibrate import steps_by_rows

WITHIN = 0.1

_HEADER = ("TTFT live", "sim", "off", "TBT live", "sim", "off", "accept", "sim", "steps")

Place = tuple[str, str, str]


def lines(live: Sequence[Cell], simulated: Sequence[Cell]) -> list[str]:
    """A row per model, setting and arm, over all passes, in milliseconds; `*` is beyond 10 %."""
    measured, computed = _gathered(live), _gathered(simulated)
    text = [f"{'model, setting, arm':78}" + "".join(f"{name:>10}" for name in _HEADER)]
    shared = [place for place in measured if place in computed]
    num_near = 0
    for place in shared:
        both = (measured[place], computed[place])
        figures = []
        for of_live, of_sim in zip(*map(medians, both), strict=True):
            off = of_sim / of_live - 1
            mark = "*" if abs(off) > WITHIN else " "
            figures += [f"{1000 * of_live:.1f}", f"{1000 * of_sim:.1f}", f"{off:+.0%}{mark}"]
        num_near += not any("*" in figure for figure in figures)
        for cells in both:
            accepted = accept_length([request for cell in cells for request in cell.requests])
            figures.append("-" if accepted is None else f"{accepted:.2f}")
        figures.append(_steps_off(*both))
        text.append(f"{', '.join(place):78}" + "".join(f"{figure:>10}" for figure in figures))
    text.append(f"{num_near} of {len(shared)} rows have both medians within {WITHIN:.0%}")
    return text


def medians(cells: Sequence[Cell]) -> tuple[float, float]:
    """Median TTFT of the requests, and median TBT of their tokens."""
    requests = [request for cell in cells for request in cell.requests]
    firsts = [s for request in requests if (s := ttft_s(request)) is not None]
    gaps = [gap_s for request in requests for gap_s in tbt_s(request)]
    return percentile(firsts, 50), percentile(gaps, 50)


def _steps_off(live: Sequence[Cell], simulated: Sequence[Cell]) -> str:
    """Of the sizes that both have, weighted by the live number of each."""
    measured, computed = steps_by_rows(live), steps_by_rows(simulated)
    shared = [rows for rows in measured if rows in computed]
    if not shared:
        return "-"
    live_s = sum(len(measured[rows]) * percentile(measured[rows], 50) for rows in shared)
    sim_s = sum(len(measured[rows]) * percentile(computed[rows], 50) for rows in shared)
    return f"{live_s / sim_s - 1:+.0%}"


def _gathered(cells: Sequence[Cell]) -> dict[Place, list[Cell]]:
    found: defaultdict[Place, list[Cell]] = defaultdict(list)
    for cell in cells:
        found[cell.model.name, cell.setting, cell.arm].append(cell)
    return dict(found)

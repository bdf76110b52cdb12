"""Curves over settings that differ in one thing only: load, prompt length, round trip."""

import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from bench import measures
from bench.report.drawing import Picture, colour, legend_below, milliseconds_axis, picture
from bench.report.figures import Summary, mean_tbt_s
from bench.report.formats import link_asked, number
from bench.report.groups import ARM_ORDER, ArmResult, Group, arm_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = tuple[tuple[float, float], ...]

_MOST_SETS = 2
"""Of one sweep, those over most settings."""

_NUM_BINS = 8
_NUM_COLUMNS = 3
_LETTERS = "abcdefghij"

_LEAST_APART = 0.06
"""Of the height; a value nearer than this to another one is not written."""

UNSETTLED = (
    "A ring marks a run that did not settle: its queue still grew when it was cut off, and a "
    "longer run would show longer times."
)


@dataclass(frozen=True, slots=True)
class Sweep:
    """`what` was measured `over` what, times in milliseconds; all else is in `key`.

    `points` are those of one arm at one setting. With fewer than `fewest` places on the x axis a
    curve says no more than the table.
    """

    what: str
    over: str
    key: Callable[[Group], Hashable]
    points: Callable[[ArmResult, Summary], Points]
    fewest: int = 3


@dataclass(frozen=True, slots=True)
class Line:
    """One arm, on a number of clouds: its points (x, y) in order of x."""

    arm: str
    num_replicas: int
    points: Points
    unsettled: Points
    """Those of runs that did not come to rest."""


@dataclass(frozen=True, slots=True)
class Curves:
    """One panel, from these settings."""

    sweep: Sweep
    groups: tuple[Group, ...]
    lines: tuple[Line, ...]


def _but_load(group: Group) -> Hashable:
    return link_asked(group.link), group.workload.name, group.workload.arrivals


def _but_prompt(group: Group) -> Hashable:
    load = group.workload.num_devices, group.workload.requests_per_s
    return link_asked(group.link), load, group.num_replicas


def _but_delay(group: Group) -> Hashable:
    asked = msgspec.structs.replace(group.link, delay_s=0.0)
    load = group.workload
    shared = load.name, load.num_devices, load.requests_per_s, load.temperature
    return link_asked(asked), shared, group.num_replicas


def _at_rate(value_of: Callable[[Summary], float | None]) -> Callable[..., Points]:
    def points(result: ArmResult, summary: Summary) -> Points:
        rate, value = result.cells[0].workload.requests_per_s, value_of(summary)
        return () if rate is None or value is None else ((rate, value),)

    return points


def _by_prompt(result: ArmResult, _: Summary) -> Points:
    return tuple((float(r.prompt_tokens), 1000 * r.emissions[0][0]) for r in result.answered)


def _by_round_trip(result: ArmResult, _: Summary) -> Points:
    rtt_s = statistics.median(measures.rtt_s(cell.link) for cell in result.cells)
    mean_s = mean_tbt_s(result.answered)
    return () if mean_s is None else ((1000 * rtt_s, 1000 * mean_s),)


LOAD = tuple(
    Sweep(what, "requests per second", _but_load, _at_rate(value_of), 4)
    for what, value_of in (
        ("median TTFT", lambda summary: 1000 * summary.ttft.p50 if summary.ttft else None),
        ("median TBT", lambda summary: 1000 * summary.tbt.p50 if summary.tbt else None),
        ("within limits, %", lambda summary: None if summary.sla is None else 100 * summary.sla),
    )
)
PROMPT = Sweep("median TTFT", "prompt, tokens", _but_prompt, _by_prompt)
ROUND_TRIP = Sweep("mean TBT", "round trip of the link, ms", _but_delay, _by_round_trip)


def curves(groups: Iterable[Group], sweep: Sweep, found: Mapping[int, Summary]) -> list[Curves]:
    """All that were run, those over most settings first."""
    by_key: dict[Hashable, list[Group]] = {}
    for group in groups:
        by_key.setdefault((group.kind, group.model.name, sweep.key(group)), []).append(group)
    all_curves = []
    for similar in by_key.values():
        arms = {(each.arm, group.num_replicas) for group in similar for each in group.arms}
        ordered = sorted(arms, key=lambda arm: (arm_order(arm[0]), arm[1]))
        lines = [_line(similar, *each, sweep, found) for each in ordered]
        kept = tuple(line for line in lines if len(line.points) >= sweep.fewest)
        if kept:
            all_curves.append(Curves(sweep, tuple(similar), kept))
    return sorted(all_curves, key=lambda each: -len(each.groups))


def _line(
    groups: Sequence[Group], arm: str, num_replicas: int, sweep: Sweep, found: Mapping[int, Summary]
) -> Line:
    points: list[tuple[float, float]] = []
    unsettled: list[tuple[float, float]] = []
    for group in groups:
        result = group.arm(arm)
        if result is not None and group.num_replicas == num_replicas:
            summary = found[result.number]
            points += sweep.points(result, summary)
            unsettled += sweep.points(result, summary) if summary.num_unsettled else ()
    return Line(arm, num_replicas, _medians(sorted(points), len(groups)), tuple(unsettled))


def _medians(points: Sequence[tuple[float, float]], num_settings: int) -> Points:
    """Of points in order of x: the median at each x, or of bins of equal numbers when many."""
    xs = sorted({x for x, _ in points})
    if len(xs) <= max(_NUM_BINS, num_settings):
        return tuple((x, statistics.median(y for at, y in points if at == x)) for x in xs)
    import numpy as np

    bins = [np.median(each, axis=0) for each in np.array_split(np.array(points), _NUM_BINS)]
    return tuple((float(x), float(y)) for x, y in bins)


def sweeps_chart(groups: Sequence[Group], found: Mapping[int, Summary]) -> Picture | None:
    """All sweeps of these settings, a panel each."""
    panels = [
        each
        for sweep in (*LOAD, PROMPT, ROUND_TRIP)
        for each in curves(groups, sweep, found)[:_MOST_SETS]
    ]
    if not panels:
        return None
    num_rows = -(-len(panels) // _NUM_COLUMNS)

    def draw(figure: "Figure") -> None:
        grid = figure.subplots(num_rows, min(_NUM_COLUMNS, len(panels)), squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place < len(panels):
                _draw(axes, panels[place], _LETTERS[place])
            else:
                axes.set_axis_off()
        legend_below(figure)

    caption = "Lines go through medians (over the prompt), means (over the round trip) or single "
    caption += "runs (over load); the figure at a line's end is its last value. "
    if any(line.unsettled for each in panels for line in each.lines):
        caption += UNSETTLED + " "
    caption += " ".join(
        f"{letter}: {each.groups[0].model.name}, {link_asked(each.groups[0].link)}"
        + (" and others." if each.sweep is ROUND_TRIP else ".")
        for letter, each in zip(_LETTERS, panels, strict=False)
    )
    return picture("sweeps", "Across settings", caption, (9.6, 0.9 + 2.9 * num_rows), draw)


def _draw(axes: "Axes", panel: Curves, letter: str) -> None:
    replicas = sorted({line.num_replicas for line in panel.lines})
    for line in panel.lines:
        look: dict[str, Any] = {"color": colour(line.arm), "label": line.arm, "marker": "o"}
        look["linestyle"] = "-" if line.arm in ARM_ORDER else "--"
        if len(replicas) > 1:
            place = replicas.index(line.num_replicas)
            clouds = "1 cloud" if line.num_replicas == 1 else f"{line.num_replicas} clouds"
            faint = 0.45 + 0.55 * place / (len(replicas) - 1)
            look |= {
                "label": f"{line.arm}, {clouds}",
                "alpha": faint,
                "marker": "osD^vP"[place % 6],
            }
        axes.plot(*zip(*line.points, strict=True), markersize=4, **look)
        for point in line.unsettled:
            axes.plot(*point, "o", markersize=10, fillstyle="none", color=look["color"])
        for point in line.unsettled[-1:]:
            axes.annotate("not settled", point, (-8, 6), textcoords="offset points", ha="right")
    axes.set_title(f"{letter}: {panel.sweep.what}, {panel.groups[0].kind}")
    axes.set_xlabel(panel.sweep.over)
    axes.set_xlim(0, None)
    if panel.sweep.what.endswith("%"):
        axes.set_ylim(-2, 108)
        axes.set_ylabel("requests, %")
    else:
        values = [value for line in panel.lines for _, value in line.points]
        milliseconds_axis(axes, panel.sweep.what, values)
    _write_last_values(axes, panel.lines)


def _write_last_values(axes: "Axes", lines: Sequence[Line]) -> None:
    """At the end of each line, where there is room."""
    taken: list[float] = []
    for line in lines:
        end = line.points[-1]
        height = axes.transLimits.transform(axes.transScale.transform(end))[1]
        if all(abs(height - other) >= _LEAST_APART for other in taken):
            taken.append(height)
            axes.annotate(number(end[1]), end, (5, 0), textcoords="offset points", va="center")

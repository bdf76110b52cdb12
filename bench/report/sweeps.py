"""Curves over settings that differ in one thing only: load, prompt length, round trip."""

import itertools
import statistics
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from bench import measures
from bench.report.drawing import Picture, colour, legend_below, picture
from bench.report.figures import Limits, mean_tbt_s, served_well
from bench.report.formats import link_asked, number
from bench.report.groups import ARM_ORDER, ArmResult, Group, arm_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = list[tuple[float, float]]

_MOST_PANELS = 2
"""Of one sweep, those over most settings."""

_NUM_BINS = 8
_NUM_COLUMNS = 3

_LOG_FROM = 12.0
"""Beyond this ratio of greatest to least, a logarithmic axis shows more than a plain one."""

_LEAST_APART = 0.06
"""Of the height; a value nearer than this to another one is not written."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """`what` was measured `over` what, times in milliseconds.

    Settings that differ in nothing but what is `free` make curves. `points` are those of one arm
    at one setting. With fewer than `fewest` places on the x axis a curve says no more than the
    table.
    """

    what: str
    over: str
    free: Collection[str]
    points: Callable[[ArmResult, Limits], Points]
    fewest: int = 3

    def key(self, group: Group) -> Hashable:
        """What is not free: settings with the same key belong together."""
        link, load = group.like.link, group.like.workload
        fields = {
            "run": (group.kind, group.like.model.name),
            "link": link_asked(msgspec.structs.replace(link, delay_s=0.0)),
            "delay": link.delay_s,
            "prompts": load.name,
            "load": (load.arrivals, load.num_devices, load.requests_per_s),
            "clouds": group.like.num_replicas,
            "temperature": load.temperature,
        }
        return tuple(value for name, value in fields.items() if name not in self.free)


def _ttft_at_load(result: ArmResult, _: Limits) -> Points:
    return _at_load(result, 1000 * result.ttft.p50 if result.ttft else None)


def _tbt_at_load(result: ArmResult, _: Limits) -> Points:
    return _at_load(result, 1000 * result.tbt.p50 if result.tbt else None)


def _within_at_load(result: ArmResult, limits: Limits) -> Points:
    served = served_well(result, limits)
    return _at_load(result, served and 100 * served[0])


def _at_load(result: ArmResult, value: float | None) -> Points:
    per_s = result.cells[0].workload.requests_per_s
    return [] if per_s is None or value is None else [(per_s, value)]


def _by_prompt(result: ArmResult, _: Limits) -> Points:
    return [(float(one.prompt_tokens), 1000 * one.emissions[0][0]) for one in result.answered]


def _by_round_trip(result: ArmResult, _: Limits) -> Points:
    rtt_s = statistics.median(measures.rtt_s(cell.link) for cell in result.cells)
    mean_s = mean_tbt_s(result.answered)
    return [] if mean_s is None else [(1000 * rtt_s, 1000 * mean_s)]


_PER_S, _FREE = "requests per second", ("load", "clouds", "temperature")
LOAD = (
    Sweep("median TTFT", _PER_S, _FREE, _ttft_at_load, 4),
    Sweep("median TBT", _PER_S, _FREE, _tbt_at_load, 4),
    Sweep("within limits, %", _PER_S, _FREE, _within_at_load, 4),
)
PROMPT = Sweep("median TTFT", "prompt, tokens", ("prompts", "temperature"), _by_prompt)
ROUND_TRIP = Sweep("mean TBT", "round trip of the link, ms", ("delay",), _by_round_trip)


@dataclass(frozen=True, slots=True)
class Line:
    """One arm, on a number of clouds: its points (x, y) in order of x."""

    arm: str
    num_replicas: int
    points: Points
    unsettled: Points
    """Those of runs that did not come to rest."""


@dataclass(frozen=True, slots=True)
class Panel:
    """The curves of one sweep through these settings."""

    sweep: Sweep
    groups: list[Group]
    lines: list[Line]


def panels(groups: Iterable[Group], sweep: Sweep, limits: Limits) -> list[Panel]:
    """All that were run, those over most settings first."""
    by_key: dict[Hashable, list[Group]] = {}
    for group in groups:
        by_key.setdefault(sweep.key(group), []).append(group)
    found = []
    for similar in by_key.values():
        arms = {(group.like.num_replicas, each.arm) for group in similar for each in group.arms}
        ordered = sorted(arms, key=lambda arm: (arm_order(arm[1]), arm[0]))
        lines = [_line(similar, num, arm, sweep, limits) for num, arm in ordered]
        if kept := [line for line in lines if len(line.points) >= sweep.fewest]:
            found.append(Panel(sweep, similar, kept))
    return sorted(found, key=lambda panel: -len(panel.groups))


def _line(
    groups: Sequence[Group], num_replicas: int, arm: str, sweep: Sweep, limits: Limits
) -> Line:
    points: Points = []
    unsettled: Points = []
    for group in groups:
        result = group.arm(arm)
        if result is not None and group.like.num_replicas == num_replicas:
            found = sweep.points(result, limits)
            points += found
            unsettled += found if result.unsettled else []
    return Line(arm, num_replicas, _medians(sorted(points), len(groups)), unsettled)


def _medians(points: Points, num_settings: int) -> Points:
    """Of points in order of x: the median at each x, or of bins of equal numbers when many."""
    bins = [list(each) for _, each in itertools.groupby(points, key=lambda point: point[0])]
    if len(bins) > max(_NUM_BINS, num_settings):
        edges = [len(points) * number // _NUM_BINS for number in range(_NUM_BINS + 1)]
        bins = [points[begin:end] for begin, end in itertools.pairwise(edges)]
    return [(statistics.median(x for x, _ in b), statistics.median(y for _, y in b)) for b in bins]


def sweeps_chart(groups: Sequence[Group], limits: Limits) -> Picture | None:
    """All sweeps of these settings, a panel each."""
    sweeps = (*LOAD, PROMPT, ROUND_TRIP)
    found = [each for sweep in sweeps for each in panels(groups, sweep, limits)[:_MOST_PANELS]]
    if not found:
        return None
    lettered = dict(zip("abcdefghij", found, strict=False))
    num_rows = -(-len(found) // _NUM_COLUMNS)

    def draw(figure: "Figure") -> None:
        grid = figure.subplots(num_rows, min(_NUM_COLUMNS, len(found)), squeeze=False)
        for axes, (letter, panel) in zip(grid.flat, lettered.items(), strict=False):
            axes.set_title(f"{letter}: {panel.sweep.what}, {panel.groups[0].kind}")
            _draw(axes, panel)
        for axes in grid.flat[len(found) :]:
            axes.set_axis_off()
        legend_below(figure)

    caption = "Lines go through medians (over the prompt), means (over the round trip) or single "
    caption += "runs (over load); the figure at a line's end is its last value. "
    if any(line.unsettled for panel in found for line in panel.lines):
        caption += "A ring marks a run that did not settle: its queue still grew when it was cut "
        caption += "off, and a longer run would show longer times. "
    likes = {letter: panel.groups[0].like for letter, panel in lettered.items()}
    caption += " ".join(
        f"{letter}: {like.model.name}, {link_asked(like.link)}"
        + (" and others." if lettered[letter].sweep is ROUND_TRIP else ".")
        for letter, like in likes.items()
    )
    return picture("sweeps", "Across settings", caption, 0.9 + 2.9 * num_rows, draw)


def _draw(axes: "Axes", panel: Panel) -> None:
    replicas = sorted({line.num_replicas for line in panel.lines})
    for line in panel.lines:
        look: dict[str, Any] = {"color": colour(line.arm), "label": line.arm, "marker": "o"}
        look["linestyle"] = "-" if line.arm in ARM_ORDER else "--"
        if len(replicas) > 1:
            place = replicas.index(line.num_replicas)
            look["label"] += f", {line.num_replicas} cloud{'s' * (line.num_replicas > 1)}"
            look["alpha"] = 0.45 + 0.55 * place / (len(replicas) - 1)
            look["marker"] = "osD^vP"[place % 6]
        axes.plot(*zip(*line.points, strict=True), markersize=4, **look)
        for point in line.unsettled:
            axes.plot(*point, "o", markersize=10, fillstyle="none", color=look["color"])
        for point in line.unsettled[-1:]:
            axes.annotate("not settled", point, (-8, 6), textcoords="offset points", ha="right")
    axes.set_xlabel(panel.sweep.over)
    axes.set_xlim(0, None)
    _scale(axes, panel)
    _write_last_values(axes, panel.lines)


def _scale(axes: "Axes", panel: Panel) -> None:
    """The y axis in percent, or in milliseconds; these logarithmic where they are far apart."""
    from matplotlib.ticker import LogLocator

    values = [value for line in panel.lines for _, value in line.points]
    if panel.sweep.what.endswith("%"):
        axes.set_ylim(-2, 108)
        axes.set_ylabel("requests, %")
    elif 0 < min(values) < max(values) / _LOG_FROM:
        axes.set_yscale("log")
        axes.set_ylabel(f"{panel.sweep.what}, ms (logarithmic)")
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    else:
        axes.set_ylim(0, 1.1 * max(values) or 1)
        axes.set_ylabel(f"{panel.sweep.what}, ms")


def _write_last_values(axes: "Axes", lines: Sequence[Line]) -> None:
    """At the end of each line, where there is room."""
    taken: list[float] = []
    for line in lines:
        end = line.points[-1]
        height = axes.transLimits.transform(axes.transScale.transform(end))[1]
        if all(abs(height - other) >= _LEAST_APART for other in taken):
            taken.append(height)
            axes.annotate(number(end[1]), end, (5, 0), textcoords="offset points", va="center")

"""Pictures over many settings: prompt length, round trip, load."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bench.report.axes import milliseconds_axis
from bench.report.drawing import Picture, finished, legend_below, panels
from bench.report.palette import Look, step_looks
from bench.report.series import CurveSet, LoadLine, LoadSeries
from bench.report.summary import Quantiles, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inches: two of these stand side by side.
_HALF_PAGE = (6.4, 4.3)
# Single requests are drawn up to so many per arm, evenly taken.
_MOST_DOTS = 150


def prompt_picture(curves: CurveSet, looks: Mapping[str, Look], number: int) -> Picture:
    """TTFT against prompt length."""
    figure, (axes,) = panels(1, *_HALF_PAGE)
    times_ms = []
    for curve in curves.curves:
        look = looks[curve.arm]
        stride = max(1, len(curve.scatter) // _MOST_DOTS)
        dots = curve.scatter[::stride]
        x, y = [at for at, _ in dots], [1000 * time_s for _, time_s in dots]
        axes.plot(x, y, ".", markersize=3, color=look.colour, alpha=0.3)
        axes.plot(
            [at for at, _ in curve.points],
            [1000 * time_s for _, time_s in curve.points],
            color=look.colour,
            linestyle=look.line,
            marker=look.marker,
            label=curve.arm,
        )
        times_ms += y
    axes.set_xlabel("prompt, tokens")
    axes.set_xlim(0, None)
    milliseconds_axis(axes, "y", "TTFT", times_ms)
    legend_below(figure, [axes], num_columns=4)
    caption = "Dots are requests, lines go through medians."
    name = f"ttft-over-prompt-{number}"
    return finished(figure, name, f"TTFT against prompt length: {curves.title}", caption)


def round_trip_picture(curves: CurveSet, looks: Mapping[str, Look], number: int) -> Picture:
    """TBT against the round trip of the link."""
    figure, (axes,) = panels(1, *_HALF_PAGE)
    times_ms = []
    for curve in curves.curves:
        look = looks[curve.arm]
        y = [1000 * time_s for _, time_s in curve.points]
        axes.plot(
            [1000 * rtt_s for rtt_s, _ in curve.points],
            y,
            color=look.colour,
            linestyle=look.line,
            marker=look.marker,
            label=curve.arm,
        )
        times_ms += y
    axes.set_xlabel("round trip of the link, ms")
    axes.set_xlim(0, None)
    milliseconds_axis(axes, "y", "mean TBT", times_ms)
    legend_below(figure, [axes], num_columns=4)
    caption = "Mean time between tokens; the round trip is the median as measured, for simulated "
    caption += "links as asked for."
    name = f"tbt-over-round-trip-{number}"
    return finished(figure, name, f"TBT against round trip: {curves.title}", caption)


_LOAD_PANELS: tuple[tuple[str, Callable[[Summary], float | None]], ...] = (
    ("median TTFT", lambda summary: _median_ms(summary.ttft)),
    ("median TBT", lambda summary: _median_ms(summary.tbt)),
    ("within both limits, %", lambda summary: None if summary.sla is None else 100 * summary.sla),
)


UNSETTLED = (
    "A ring marks a run that did not settle: its queue still grew when it was cut off, and a "
    "longer run would show longer times."
)
_RING: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 10,
    "markerfacecolor": "none",
}
_ABOVE: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 7.5}


def _median_ms(quantiles: Quantiles | None) -> float | None:
    return None if quantiles is None else 1000 * quantiles.p50


def load_picture(series: LoadSeries, looks: Mapping[str, Look], number: int) -> Picture:
    """TTFT, TBT and attainment over arrivals per second, a line per number of replicas or arm."""
    figure, axes = panels(3, 11, 3.8)
    styles = step_looks(len(series.lines)) if series.is_by_replicas else None
    for place, (label, value_of) in enumerate(_LOAD_PANELS):
        every: list[float] = []
        for row, line in enumerate(series.lines):
            look = styles[row] if styles else looks[line.arm]
            points = [
                (rate, value)
                for rate, summary in line.points
                if (value := value_of(summary)) is not None
            ]
            every += [value for _, value in points]
            axes[place].plot(
                [rate for rate, _ in points],
                [value for _, value in points],
                color=look.colour,
                linestyle=look.line,
                marker=look.marker,
                markersize=4.5,
                label=_replicas(line.num_replicas) if styles else line.arm,
            )
            _mark_unsettled(axes[place], line, value_of, look)
        axes[place].set_xlabel("requests per second")
        axes[place].set_xlim(0, None)
        axes[place].set_title(label.partition(",")[0])
        if label.endswith("%"):
            axes[place].set_ylim(-2, 104)
            axes[place].set_ylabel("share of requests, %")
        else:
            milliseconds_axis(axes[place], "y", "", every)
    legend_below(figure, axes, num_columns=8 if styles else 6)
    caption = "Each point is a run of its own. A request is within both limits when its TTFT and "
    caption += "its mean TBT are."
    if any(summary.num_unsettled for line in series.lines for _, summary in line.points):
        caption += f" {UNSETTLED}"
    return finished(figure, f"load-{number}", f"Under load: {series.title}", caption)


def _mark_unsettled(
    axes: "Axes", line: LoadLine, value_of: Callable[[Summary], float | None], look: Look
) -> None:
    """A ring around points whose queue still grew, and the words."""
    for rate, summary in line.points:
        value = value_of(summary)
        if summary.num_unsettled and value is not None:
            axes.plot([rate], [value], color=look.colour, **_RING)
            axes.annotate("not settled", (rate, value), xytext=(0, 8), **_ABOVE)


def _replicas(number: int) -> str:
    return "1 replica" if number == 1 else f"{number} replicas"

"""Pictures of one setting: distributions, bars, and where a round's time goes."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from bench import measures
from bench.records import RequestRecord
from bench.report.axes import milliseconds_axis
from bench.report.drawing import Picture, finished, legend_below, panels, thinned
from bench.report.groups import ArmResult, Group
from bench.report.palette import INK, MUTED, OTHER_PHASE, PHASES, Look
from bench.report.ratios import median_tbt_s, median_ttft_s

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FAMILY = "hat"

_ValuesOf = Callable[[RequestRecord], list[float]]
_MedianOf = Callable[[Sequence[RequestRecord]], float | None]

_QUANTITIES: tuple[tuple[str, _ValuesOf, _MedianOf], ...] = (
    ("TTFT", lambda request: [request.emissions[0][0]], median_ttft_s),
    ("TBT per token", measures.tbt_s, median_tbt_s),
)


def setting_pictures(group: Group, looks: Mapping[str, Look]) -> list[Picture]:
    """Those that the setting has anything to show in."""
    name = f"setting-{group.number}"
    family = [result for result in group.arms if result.arm.startswith(_FAMILY)]
    others = [result for result in group.arms if result not in family[1:]]
    found = [
        _distributions(group, looks, name),
        _bars(others, looks, f"{name}-arms", "Arms", "arms that were run"),
        _time_split(group, name),
    ]
    if len(family) > 1:
        text = "hat and hat without one of its parts"
        found.insert(2, _bars(family, looks, f"{name}-ablations", "Ablations", text))
    return [picture for picture in found if picture is not None]


def _distributions(group: Group, looks: Mapping[str, Look], name: str) -> Picture | None:
    figure, axes = panels(2, 9.4, 3.7)
    for place, (label, values_of, _) in enumerate(_QUANTITIES):
        every: list[float] = []
        for result in group.arms:
            values_ms = _values_ms(result, values_of)
            every += values_ms
            if values_ms:
                look = looks[result.arm]
                x = thinned(values_ms)
                y = thinned([(rank + 1) / len(values_ms) for rank in range(len(values_ms))])
                axes[place].plot(
                    [x[0], *x],
                    [0, *y],
                    color=look.colour,
                    linestyle=look.line,
                    drawstyle="steps-post",
                    label=result.arm,
                )
        if not every and place == 0:
            return None
        axes[place].set_title(label)
        axes[place].set_ylabel("share of requests" if place == 0 else "share of tokens")
        axes[place].set_ylim(0, 1.02)
        milliseconds_axis(axes[place], "x", label, every)
    legend_below(figure, axes)
    caption = "Share of requests (TTFT) and of tokens (TBT) that took at most so long; "
    caption += "further left is quicker. Failed requests are left out."
    return finished(figure, f"{name}-distributions", "Distributions of TTFT and TBT", caption)


def _bars(
    results: Sequence[ArmResult], looks: Mapping[str, Look], name: str, title: str, what: str
) -> Picture | None:
    shown = [result for result in results if result.answered]
    if not shown:
        return None
    figure, axes = panels(2, 9.4, 1.0 + 0.36 * len(shown))
    for place, (label, values_of, median_of) in enumerate(_QUANTITIES):
        for row, result in enumerate(shown):
            values_ms = _values_ms(result, values_of)
            if values_ms:
                medians = [1000 * (median_of(cell.requests) or 0) for cell in result.cells]
                _bar(axes[place], row, values_ms, medians, looks[result.arm])
        axes[place].set_title(label)
        axes[place].set_yticks(range(len(shown)), [result.arm for result in shown])
        axes[place].set_ylim(len(shown) - 0.4, -0.6)
        axes[place].grid(visible=False, axis="y")
        axes[place].tick_params(axis="y", length=0)
        axes[place].set_xlabel(f"{label}, ms")
        axes[place].set_xlim(0, None)
    axes[1].set_yticklabels([])
    caption = f"Median (bar) and P90 (diamond) of {what}; the line is from the least to the "
    caption += "greatest median of the repeats."
    return finished(figure, name, f"{title}: TTFT and TBT", caption)


def _bar(
    axes: "Axes", row: int, values_ms: Sequence[float], medians: Sequence[float], look: Look
) -> None:
    axes.barh(row, measures.percentile(values_ms, 50), height=0.62, color=look.colour)
    axes.plot(measures.percentile(values_ms, 90), row, "D", markersize=4, color=MUTED)
    if len(medians) > 1:
        axes.plot([min(medians), max(medians)], [row, row], color=INK, linewidth=1.1)


def _time_split(group: Group, name: str) -> Picture | None:
    shown = [result for result in group.arms if any(r.seconds for r in result.answered)]
    if not shown:
        return None
    figure, axes = panels(2, 9.4, 1.6 + 0.36 * len(shown))
    for place, label in enumerate(("per round", "per token of the answer")):
        for row, result in enumerate(shown):
            left = 0.0
            for phase, seconds in _phase_seconds(result).items():
                width = 1000 * seconds / _divisor(result, place)
                colour = PHASES.get(phase, OTHER_PHASE)
                text = phase.replace("_", " ")
                axes[place].barh(row, width, 0.66, left, color=colour, label=text)
                left += width
        axes[place].set_title(label)
        axes[place].set_xlabel("ms")
        axes[place].set_yticks(range(len(shown)), [result.arm for result in shown])
        axes[place].set_ylim(len(shown) - 0.4, -0.6)
        axes[place].grid(visible=False, axis="y")
        axes[place].tick_params(axis="y", length=0)
    axes[1].set_yticklabels([])
    legend_below(figure, axes, num_columns=6, order=[name.replace("_", " ") for name in PHASES])
    caption = "Where the time of answered requests went, by phase, for arms that tell. Opening a "
    caption += "session and its prompt count as one more round. The link of cloud-only and of "
    caption += "device-only is between two programs on one side."
    return finished(figure, f"{name}-time-split", "Where a round's time goes", caption)


def _phase_seconds(result: ArmResult) -> dict[str, float]:
    """Sums over requests; phases in the order of the palette, those without time left out."""
    sums: dict[str, float] = {}
    for request in result.answered:
        for phase, seconds in request.seconds.items():
            if phase != "total":
                sums[phase] = sums.get(phase, 0.0) + seconds
    names = [*(phase for phase in PHASES if phase in sums), *(sums.keys() - PHASES.keys())]
    return {name: sums[name] for name in names if sums[name] > 0}


def _divisor(result: ArmResult, place: int) -> int:
    telling = [request for request in result.answered if request.seconds]
    if place == 0:
        return sum(request.rounds + 1 for request in telling)
    return max(1, sum(request.output_tokens for request in telling))


def _values_ms(result: ArmResult, values_of: _ValuesOf) -> list[float]:
    return sorted(1000 * value for request in result.answered for value in values_of(request))

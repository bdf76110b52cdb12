"""Charts of one setting: the arms, where a round's time goes, one request lane by lane."""

from typing import TYPE_CHECKING, Any

from bench.records import RequestRecord
from bench.report.drawing import Picture, colour, label_rows, legend_below, picture
from bench.report.formats import number
from bench.report.groups import ArmResult, Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PHASES = {
    "queue": "silver",
    "open": "darkgrey",
    "draft": "tab:pink",
    "input": "tab:orange",
    "send": "tab:olive",
    "link": "lightskyblue",
    "cloud_queue": "mediumaquamarine",
    "cloud_compute": "tab:green",
    "verify": "tab:blue",
    "recovery": "tab:red",
    "loop": "tab:brown",
}
"""Of a round, in its order."""

WORK = {
    "prefill": "tab:orange",
    "draft": "tab:pink",
    "verify": "tab:blue",
    "ahead": "lightskyblue",
}
LANES = ("device", "uplink", "cloud", "downlink")

_NUM_PIECES = 6
"""So many pieces of text are shown after the first."""

_ON_ONE_SIDE = ("cloud-only", "device-only")
"""Both programs of these arms stand on one side, and talk to each other without the link."""

_INSIDE: dict[str, Any] = {"ha": "center", "va": "center", "color": "#101010", "fontsize": 8}
"""What is written on a bar: dark on dark pages too."""

_LEAST_NAMED = 0.07
"""A part of a bar has its value written into it from this share of the longest bar on."""


def charts(group: Group) -> list[Picture]:
    """Those that the setting has anything to show in."""
    answered = [result for result in group.arms if result.answered]
    telling = [result for result in answered if any(one.seconds for one in result.answered)]
    kept = _kept(group)
    return [
        *([_arms_chart(group, answered)] if answered else []),
        *([_rounds_chart(group, telling)] if telling else []),
        *([_timeline_chart(group, kept)] if kept else []),
    ]


def _arms_chart(group: Group, shown: list[ArmResult]) -> Picture:
    """Median TTFT and TBT of each arm, with the 90th percentile."""

    def draw(figure: "Figure") -> None:
        for axes, title in zip(figure.subplots(1, 2), ("TTFT", "TBT per token"), strict=True):
            for row, result in enumerate(shown):
                if times := result.ttft if title == "TTFT" else result.tbt:
                    median, p90 = 1000 * times.p50, 1000 * times.p90
                    whisker = {"xerr": [[0.0], [p90 - median]]}
                    style = {"ecolor": "tab:grey", "capsize": 2.5}
                    look = {"color": colour(result.arm), "error_kw": style}
                    bars = axes.barh(row, median, 0.62, **whisker, **look)
                    text = f"{number(median)} (P90 {number(p90)})"
                    axes.bar_label(bars, [text], padding=4)
            label_rows(axes, [result.arm for result in shown])
            axes.set_title(title)
            axes.set_xlim(0, 1.45 * axes.get_xlim()[1])
        figure.axes[1].set_yticklabels([])

    caption = f"{group.name} ({group.kind}, link {group.like.link.kind}). Bars and figures are "
    caption += "medians, the line goes on to the 90th percentile. Failed requests are left out."
    title = "First piece of text, and time between tokens"
    return picture("arms", title, caption, 1.1 + 0.36 * len(shown), draw)


def _rounds_chart(group: Group, shown: list[ArmResult]) -> Picture:
    """Of arms that tell: the mean time of each phase, per round and per token."""

    def draw(figure: "Figure") -> None:
        for axes, per_token in zip(figure.subplots(1, 2), (False, True), strict=True):
            parts = [_phases_ms(result, per_token) for result in shown]
            totals = [sum(phases.values()) for phases in parts]
            left = [0.0] * len(shown)
            for phase in dict.fromkeys([*PHASES, *(name for phases in parts for name in phases)]):
                look: dict[str, Any] = {
                    "color": PHASES.get(phase, "tab:grey"),
                    "label": phase.replace("_", " "),
                }
                for row, width in enumerate(phases.get(phase, 0.0) for phases in parts):
                    if width > 0:
                        axes.barh(row, width, 0.66, left[row], **look)
                    if width > _LEAST_NAMED * max(totals):
                        axes.text(left[row] + width / 2, row, number(width), **_INSIDE)
                    left[row] += width
            for row, total in enumerate(totals):
                axes.text(total, row, f" {number(total)}", va="center", fontweight="bold")
            label_rows(axes, [result.arm for result in shown])
            axes.set_title("per token of the answer" if per_token else "per round")
            axes.set_xlim(0, 1.12 * max(totals) or 1)
        figure.axes[1].set_yticklabels([])
        legend_below(figure)

    caption = f"{group.name} ({group.kind}). Means over answered requests; the figure behind a bar "
    caption += "is its whole. Opening a session and its prompt count as one more round. The link "
    caption += "of cloud-only and of device-only is between two programs on one side."
    height = 1.7 + 0.36 * len(shown)
    return picture("rounds", "Where a round's time goes", caption, height, draw)


def _phases_ms(result: ArmResult, per_token: bool) -> dict[str, float]:
    """Those with any time, per round or per token."""
    telling = [request for request in result.answered if request.seconds]
    num = max(1, sum(one.output_tokens if per_token else one.rounds + 1 for one in telling))
    names = dict.fromkeys(name for one in telling for name in one.seconds if name != "total")
    sums = {name: sum(one.seconds.get(name, 0.0) for one in telling) for name in names}
    return {name: 1000 * seconds / num for name, seconds in sums.items() if seconds > 0}


def _timeline_chart(group: Group, shown: dict[str, RequestRecord]) -> Picture:
    """The same request of each arm that kept its spans: its prompt, then its first rounds."""

    def draw(figure: "Figure") -> None:
        grid = figure.subplots(len(shown), 2, squeeze=False, width_ratios=(1.25, 1))
        pieces = [one.emissions[: _NUM_PIECES + 1] for one in shown.values()]
        until_first_s = max(each[0][0] for each in pieces)
        after_s = max(each[-1][0] - each[0][0] for each in pieces)
        for (prompt, rounds), (arm, request) in zip(grid, shown.items(), strict=True):
            first_s = request.emissions[0][0]
            _lanes(prompt, request, 0.0, 1.03 * until_first_s)
            _lanes(rounds, request, first_s, after_s)
            about = f"{request.prompt_tokens} tokens, first text after {number(1000 * first_s)} ms"
            prompt.set_title(f"{arm}: prompt of {about}")
            rounds.set_title("from the first piece of text on", fontweight="normal")
            rounds.set_yticklabels([])
        for axes in grid[:-1].flat:
            axes.set_xlabel("")
        legend_below(figure)

    caption = f"{group.name} ({group.kind}): one request, the same of each arm, on the same scale. "
    caption += "Bars above one another run at the same time; triangles are pieces of text. Left "
    caption += "from the request's arrival, right from the first piece on."
    height = 1.5 * len(shown) + 0.8
    return picture("timeline", "One request, lane by lane", caption, height, draw)


def _kept(group: Group) -> dict[str, RequestRecord]:
    """Of arms that use the link: the request that most of them have spans of.

    Of several passes the first one's, of several requests the first.
    """
    kept: dict[int, dict[str, RequestRecord]] = {}
    for result in group.arms:
        for request in result.answered if result.arm not in _ON_ONE_SIDE else ():
            if request.spans:
                kept.setdefault(request.number, {}).setdefault(result.arm, request)
    return max((kept[number] for number in sorted(kept)), key=len, default={})


def _lanes(axes: "Axes", request: RequestRecord, begin_s: float, length_s: float) -> None:
    """Bars between two times, the first of which is zero on the axis; text is the lowest lane."""
    # A thin edge tells chunks apart that follow each other without a gap.
    style: dict[str, Any] = {"edgecolor": "grey", "linewidth": 0.3}
    for span in request.spans:
        if span.lane in LANES and span.end_s >= begin_s and span.start_s <= begin_s + length_s:
            row, look = LANES.index(span.lane), WORK.get(span.what, "tab:grey")
            left, width = 1000 * (span.start_s - begin_s), 1000 * (span.end_s - span.start_s)
            axes.barh(row, width, 0.72, left, color=look, label=span.what, **style)
    pieces = [1000 * (time_s - begin_s) for time_s, _ in request.emissions]
    axes.plot(pieces, [len(LANES)] * len(pieces), "^", markersize=4.5, color="tab:grey")
    label_rows(axes, [*LANES, "text"])
    axes.set_xlim(0, 1000 * max(length_s, 1e-3))

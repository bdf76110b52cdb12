"""Charts of one setting: the arms, where a round's time goes, one request lane by lane."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench import measures
from bench.records import RequestRecord
from bench.report.drawing import ON_A_BAR, Picture, arm_rows, colour, legend_below, picture
from bench.report.figures import tbts_s, ttfts_s
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

_WORK = {
    "prefill": "tab:orange",
    "draft": "tab:pink",
    "verify": "tab:blue",
    "ahead": "lightskyblue",
}
_OTHER = "tab:grey"

LANES = ("device", "uplink", "cloud", "downlink")
_TEXT_LANE = len(LANES)
_NUM_PIECES = 6
"""So many pieces of text are shown after the first."""

_ON_ONE_SIDE = ("cloud-only", "device-only")
"""Both programs of these arms stand on one side, and talk to each other without the link."""

_LEAST_NAMED = 0.07
"""A part of a bar has its value written into it from this share of the longest bar on."""


def arms_chart(group: Group) -> Picture | None:
    """Median TTFT and TBT of each arm, with the 90th percentile."""
    shown = [result for result in group.arms if result.answered]
    if not shown:
        return None

    def draw(figure: "Figure") -> None:
        left, right = figure.subplots(1, 2)
        for axes, label, values_of in ((left, "TTFT", ttfts_s), (right, "TBT per token", tbts_s)):
            for row, result in enumerate(shown):
                if values := [1000 * value for value in values_of(result.answered)]:
                    _median_bar(axes, row, values, result)
            arm_rows(axes, [result.arm for result in shown])
            axes.set_title(label)
            axes.set_xlabel("ms")
            axes.set_xlim(0, 1.45 * axes.get_xlim()[1])
        right.set_yticklabels([])

    caption = f"{group.name} ({group.kind}, link {group.link.kind}). Bars and figures are medians, "
    caption += "the line goes on to the 90th percentile. Failed requests are left out."
    size = (9.6, 1.1 + 0.36 * len(shown))
    return picture("arms", "First piece of text, and time between tokens", caption, size, draw)


def _median_bar(axes: "Axes", row: int, values_ms: list[float], result: ArmResult) -> None:
    median, p90 = (measures.percentile(values_ms, percent) for percent in (50, 90))
    whisker = [[0.0], [p90 - median]]
    style = {"ecolor": "tab:grey", "capsize": 2.5}
    bars = axes.barh(row, median, 0.62, color=colour(result.arm), xerr=whisker, error_kw=style)
    axes.bar_label(bars, [f"{number(median)} (P90 {number(p90)})"], padding=4)


def rounds_chart(group: Group) -> Picture | None:
    """Of arms that tell: the mean time of each phase, per round and per token."""
    shown = [result for result in group.arms if any(one.seconds for one in result.answered)]
    if not shown:
        return None

    def draw(figure: "Figure") -> None:
        for axes, per_token in zip(figure.subplots(1, 2), (False, True), strict=True):
            parts = [_phases_ms(result, per_token) for result in shown]
            longest = max(sum(phases.values()) for phases in parts)
            for row, phases in enumerate(parts):
                left = 0.0
                for phase, width in phases.items():
                    look = PHASES.get(phase, _OTHER)
                    name = phase.replace("_", " ")
                    bar = axes.barh(row, width, 0.66, left, color=look, label=name)
                    if width > _LEAST_NAMED * longest:
                        text = [number(width)]
                        axes.bar_label(bar, text, label_type="center", color=ON_A_BAR, fontsize=8)
                    left += width
                axes.text(left, row, f" {number(left)}", va="center", fontweight="bold")
            arm_rows(axes, [result.arm for result in shown])
            axes.set_title("per token of the answer" if per_token else "per round")
            axes.set_xlabel("ms")
            axes.set_xlim(0, 1.12 * longest or 1)
        figure.axes[1].set_yticklabels([])
        legend_below(figure, tuple(phase.replace("_", " ") for phase in PHASES))

    caption = f"{group.name} ({group.kind}). Means over answered requests; the figure behind a bar "
    caption += "is its whole. Opening a session and its prompt count as one more round. The link "
    caption += "of cloud-only and of device-only is between two programs on one side."
    size = (9.6, 1.7 + 0.36 * len(shown))
    return picture("rounds", "Where a round's time goes", caption, size, draw)


def _phases_ms(result: ArmResult, per_token: bool) -> dict[str, float]:
    """Phases in the order of `PHASES`, those without time left out."""
    telling = [request for request in result.answered if request.seconds]
    sums = dict.fromkeys(PHASES, 0.0)
    for request in telling:
        for phase, seconds in request.seconds.items():
            if phase != "total":
                sums[phase] = sums.get(phase, 0.0) + 1000 * seconds
    num = sum(one.output_tokens if per_token else one.rounds + 1 for one in telling)
    return {phase: ms / max(1, num) for phase, ms in sums.items() if ms > 0}


def timeline_chart(group: Group) -> Picture | None:
    """The same request of each arm that kept its spans: its prompt, then its first rounds."""
    shown = _kept(group)
    if not shown:
        return None

    def draw(figure: "Figure") -> None:
        from matplotlib.patches import Patch

        grid = figure.subplots(len(shown), 2, squeeze=False, width_ratios=(1.25, 1))
        longest_s = [max(spans) for spans in zip(*(_shown_s(one) for _, one in shown), strict=True)]
        for (prompt, rounds), (arm, request) in zip(grid, shown, strict=True):
            first_s = request.emissions[0][0]
            _lanes(prompt, request, 0.0, 1.03 * longest_s[0])
            _lanes(rounds, request, first_s, longest_s[1])
            about = f"{request.prompt_tokens} tokens, first text after {number(1000 * first_s)} ms"
            prompt.set_title(f"{arm}: prompt of {about}")
            rounds.set_title("from the first piece of text on", fontweight="normal")
            rounds.set_yticklabels([])
        for axes in grid[-1]:
            axes.set_xlabel("ms")
        kinds = {span.what for _, request in shown for span in request.spans}
        looks = _looks(kinds).items()
        handles = [Patch(color=look, label=what) for what, look in looks]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))

    caption = f"{group.name} ({group.kind}): one request, the same of each arm, on the same scale. "
    caption += "Bars above one another run at the same time; triangles are pieces of text. Left "
    caption += "from the request's arrival, right from the first piece on."
    size = (9.6, 1.5 * len(shown) + 0.8)
    return picture("timeline", "One request, lane by lane", caption, size, draw)


def _kept(group: Group) -> list[tuple[str, RequestRecord]]:
    """Of each arm that uses the link the request that most arms have spans of, once."""
    # Of several passes the first.
    found = [
        (result.arm, {one.number: one for one in result.answered[::-1] if one.spans})
        for result in group.arms
        if result.arm not in _ON_ONE_SIDE
    ]
    numbers = [number for _, of_arm in found for number in of_arm]
    ranked = sorted(set(numbers), key=lambda number: (-numbers.count(number), number))
    chosen = [(arm, [of_arm[n] for n in ranked if n in of_arm]) for arm, of_arm in found]
    return [(arm, requests[0]) for arm, requests in chosen if requests]


def _shown_s(request: RequestRecord) -> tuple[float, float]:
    """Until the first piece, and from there to the last one that is shown."""
    first_s = request.emissions[0][0]
    last = min(_NUM_PIECES, len(request.emissions) - 1)
    return first_s, request.emissions[last][0] - first_s


def _lanes(axes: "Axes", request: RequestRecord, begin_s: float, length_s: float) -> None:
    """Bars between two times, the first of which is zero on the axis; text is the lowest lane."""
    for row, lane in enumerate(LANES):
        for what, look in _looks({span.what for span in request.spans}).items():
            bars = [
                (1000 * (span.start_s - begin_s), 1000 * (span.end_s - span.start_s))
                for span in request.spans
                if span.lane == lane and span.what == what
                if span.end_s >= begin_s and span.start_s <= begin_s + length_s
            ]
            # A thin edge tells chunks apart that follow each other without a gap.
            axes.broken_barh(bars, (row - 0.36, 0.72), facecolors=look, edgecolor="grey", lw=0.3)
    pieces = [1000 * (time_s - begin_s) for time_s, _ in request.emissions]
    axes.plot(pieces, [_TEXT_LANE] * len(pieces), "^", markersize=4.5, color="tab:grey")
    axes.set_xlim(0, 1000 * max(length_s, 1e-3))
    arm_rows(axes, [*LANES, "text"])


def _looks(kinds: set[str]) -> dict[str, str]:
    known = {what: look for what, look in _WORK.items() if what in kinds}
    return known | dict.fromkeys(sorted(kinds - _WORK.keys()), _OTHER)


def charts(group: Group) -> Sequence[Picture]:
    """Those that the setting has anything to show in."""
    found = (arms_chart(group), rounds_chart(group), timeline_chart(group))
    return [each for each in found if each is not None]

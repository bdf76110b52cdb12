"""One request as bars in four lanes, so that overlap can be seen."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.records import RequestRecord, Span
from bench.report.drawing import Picture, finished
from bench.report.groups import Group
from bench.report.palette import INK, MUTED, OTHER_PHASE, WORK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LANES = ("device", "uplink", "cloud", "downlink")
_TEXT_LANE = len(LANES)
# Both programs of these arms stand on one side, and talk to each other without the link.
_ON_ONE_SIDE = ("cloud-only", "device-only")
# After the first piece of text, so many more pieces are shown.
_NUM_PIECES = 6


def timeline(group: Group) -> Picture | None:
    """The same request of each arm that kept its spans: its prompt, then its first rounds."""
    shown = _kept(group)
    if not shown:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 1.62 * len(shown) + 0.9), layout="constrained")
    grid = figure.subplots(len(shown), 2, squeeze=False, width_ratios=(1.25, 1))
    first_s = max(request.emissions[0][0] for _, request in shown)
    rounds_s = max(_rounds_end_s(request) - request.emissions[0][0] for _, request in shown)
    for (prompt, rounds), (arm, request) in zip(grid, shown, strict=True):
        _lanes(prompt, request, 0.0, 1.03 * first_s)
        _lanes(rounds, request, request.emissions[0][0], rounds_s)
        prompt.set_title(f"{arm}: prompt of {request.prompt_tokens} tokens", fontsize=9.5)
        rounds.set_title("from the first piece of text on", fontsize=9.5, fontweight="normal")
        rounds.set_yticklabels([])
    for axes in grid[-1]:
        axes.set_xlabel("ms")
    _legend(figure, [span for _, request in shown for span in request.spans])
    caption = "One request, the same of each arm, on the same scale. Bars above one another run at "
    caption += (
        "the same time; triangles are pieces of text. Left from the request's arrival, right "
    )
    caption += "from the first piece on."
    name = f"setting-{group.number}-timeline"
    return finished(figure, name, "One request, lane by lane", caption)


def _kept(group: Group) -> list[tuple[str, RequestRecord]]:
    """Of each arm that uses the link the request that most arms have spans of, once."""
    numbers: dict[int, int] = {}
    results = [result for result in group.arms if result.arm not in _ON_ONE_SIDE]
    for result in results:
        for number in {r.number for r in result.answered if r.spans}:
            numbers[number] = numbers.get(number, 0) + 1
    ranked = sorted(numbers, key=lambda number: (-numbers[number], number))
    kept = []
    for result in results:
        of_arm = {r.number: r for r in reversed(result.answered) if r.spans}
        kept += [(result.arm, of_arm[number]) for number in ranked if number in of_arm][:1]
    return kept


def _rounds_end_s(request: RequestRecord) -> float:
    return request.emissions[min(_NUM_PIECES, len(request.emissions) - 1)][0]


def _lanes(axes: "Axes", request: RequestRecord, begin_s: float, length_s: float) -> None:
    """Bars between two times, the first of which is zero on the axis; text is the lowest lane."""
    for row, lane in enumerate(LANES):
        for what, colour in _colours(request.spans).items():
            bars = [
                (1000 * (span.start_s - begin_s), 1000 * (span.end_s - span.start_s))
                for span in request.spans
                if span.lane == lane and span.what == what
                if span.end_s >= begin_s and span.start_s <= begin_s + length_s
            ]
            if bars:
                # A thin edge tells chunks apart that follow each other without a gap.
                place = (row - 0.36, 0.72)
                axes.broken_barh(bars, place, facecolors=colour, edgecolor=INK, linewidth=0.35)
    pieces = [1000 * (time_s - begin_s) for time_s, _ in request.emissions]
    axes.plot(pieces, [_TEXT_LANE] * len(pieces), "^", markersize=4.5, color=INK, clip_on=True)
    axes.set_xlim(0, 1000 * max(length_s, 1e-3))
    axes.set_ylim(_TEXT_LANE + 0.6, -0.6)
    axes.set_yticks(range(_TEXT_LANE + 1), [*LANES, "text"])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    for row in range(_TEXT_LANE):
        axes.axhline(row + 0.5, color=MUTED, linewidth=0.3)


def _colours(spans: Sequence[Span]) -> dict[str, str]:
    kinds = {span.what for span in spans}
    known = {what: colour for what, colour in WORK.items() if what in kinds}
    return known | dict.fromkeys(sorted(kinds - WORK.keys()), OTHER_PHASE)


def _legend(figure: "Figure", spans: Sequence[Span]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=what) for what, colour in _colours(spans).items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))

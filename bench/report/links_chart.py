"""The README's chart: what a model's first token and the ones behind it take, link by link."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bench.report.drawing import Picture, colour, legend_below, picture
from bench.report.figures import ReportError
from bench.report.formats import number
from bench.report.groups import ArmResult, Group
from bench.report.links import ARMS, link_name, same_model, tokens_per_s

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _PAPER = ("#1f2328", "#e6edf3"), ("#ffffff", "#0d1117")
"""On light pages, and on dark ones."""

_MARGIN = 10


def links_chart(groups: Sequence[Group]) -> Picture:
    """Bars for each arm at each link: seconds to the first token, and tokens per second behind it.

    Raises:
        ReportError: no live setting over a link, or none with an answer.
    """
    shown = same_model(groups)
    if not any(result.answered for group in shown for result in group.arms):
        raise ReportError("expected answers over a link")
    arms = [arm for arm in ARMS if any(group.arm(arm) for group in shown)]
    title = f"{shown[0].like.model.name} over {len(shown)} links"

    def draw(figure: "Figure") -> None:
        first, behind = figure.subplots(1, 2)
        _bars(first, shown, arms, _ttft_s)
        _bars(behind, shown, arms, tokens_per_s)
        first.set_title("Seconds to the first token (less is better)")
        behind.set_title("Tokens per second behind it (more is better)")
        figure.suptitle(title, fontsize="medium")
        legend_below(figure)

    return picture("links", title, _in_words(title, shown, arms), 3.6, draw)


def _in_words(title: str, shown: Sequence[Group], arms: Sequence[str]) -> str:
    """The chart for who cannot see it."""
    found = [
        f"{link_name(group)}: "
        + ", ".join(
            f"{arm} {number(first_s)} s and {number(per_s)} tokens/s"
            for arm in arms
            if (result := group.arm(arm))
            and (first_s := _ttft_s(result)) is not None
            and (per_s := tokens_per_s(result)) is not None
        )
        for group in shown
    ]
    return f"{title}, first token and speed behind it. {'. '.join(found)}."


def _ttft_s(result: ArmResult) -> float | None:
    return result.ttft.p50 if result.ttft else None


def _bars(
    axes: "Axes",
    shown: Sequence[Group],
    arms: Sequence[str],
    measure: Callable[[ArmResult], float | None],
) -> None:
    """A cluster of bars for each link, in the order of the arms."""
    width = 0.84 / len(arms)
    for place, arm in enumerate(arms):
        for at, group in enumerate(shown):
            result = group.arm(arm)
            value = measure(result) if result else None
            if value is None:
                continue
            x = at + (place - (len(arms) - 1) / 2) * width
            # Names that begin so are left out of the legend.
            label = arm if at == 0 else "_again"
            bar = axes.bar(x, value, 0.92 * width, color=colour(arm), label=label)
            axes.bar_label(bar, [number(value)], padding=2, fontsize=7.5)
    axes.set_xlabel("link: up / down, round trip")
    axes.set_xticks(range(len(shown)), [link_name(group).replace(", ", "\n") for group in shown])
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.12)


def standalone(chart: Picture) -> str:
    """The chart as an SVG file, on a ground of its own: dark where the reader's pages are."""
    box = re.search(r'viewBox="([^"]*)"', chart.svg)
    assert box is not None
    width, height = (float(side) for side in box[1].split()[2:])
    wide, high = width + 2 * _MARGIN, height + 2 * _MARGIN
    ground_box = f'x="{-_MARGIN}" y="{-_MARGIN}" width="{wide:g}" height="{high:g}"'
    style = f"svg{{color:{_INK[0]}}}.ground{{fill:{_PAPER[0]}}}"
    dark = f"svg{{color:{_INK[1]}}}.ground{{fill:{_PAPER[1]}}}"
    ground = f'<rect class="ground" {ground_box} rx="6"/>'
    head = f"<style>{style}@media (prefers-color-scheme:dark){{{dark}}}</style>{ground}"
    opened = chart.svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    opened = opened.replace(box[0], f'viewBox="{-_MARGIN} {-_MARGIN} {wide:g} {high:g}"', 1)
    return opened.replace(">", f">{head}", 1) + "\n"

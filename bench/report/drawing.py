"""Charts: each is drawn once and written twice, as a PNG and for the page, light or dark."""

import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report.groups import ARM_ORDER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PNG_DOTS_PER_INCH = 130

LOG_FROM = 12.0
"""Beyond this ratio of greatest to least, a logarithmic axis shows more than a plain one."""

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
    "font.size": 9.5,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.parse_math": False,
}
_COLOURS = "tab10"
"""Matplotlib's own ten, which are seen on white and on black."""

_INK = "#000000"
"""Of axes; text of this colour has none of its own in an SVG."""

ON_A_BAR = "#101010"
"""What is written on a bar is dark on dark pages too."""

_NEEDLESS = re.compile(
    r'<metadata>.*?</metadata>|(?<=<g) id="[^"]*"| transform="rotate\(-0 [^"]*"|(?<=\n)\s+',
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One chart. `name` is the PNG's name without its ending; `svg` goes into the page as is."""

    name: str
    title: str
    caption: str
    svg: str
    png: bytes


def picture(
    name: str, title: str, caption: str, size: tuple[float, float], draw: "Callable[[Figure], None]"
) -> Picture:
    """What `draw` puts on a figure of so many inches; the same drawing gives the same bytes."""
    import matplotlib as mpl
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.rcsetup import cycler

    png, svg = io.BytesIO(), io.StringIO()
    # The salt keeps names apart within one page.
    own = {**_STYLE, "svg.hashsalt": name}
    own["axes.prop_cycle"] = cycler(color=mpl.color_sequences[_COLOURS])
    with style.context(own, after_reset=True):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(png, dpi=PNG_DOTS_PER_INCH, metadata={"Software": None})
        # The layout is found; to find it again would take as long as the drawing.
        figure.set_layout_engine("none")
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    return Picture(name, title, caption, _for_page(svg.getvalue(), title), png.getvalue())


def _for_page(svg: str, title: str) -> str:
    """Without metadata, names of groups and turns by nothing, with the page's ink for black."""
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    body = _NEEDLESS.sub("", svg[svg.index("<defs>") :])
    body = re.sub(r"(\d\.\d\d)\d+", r"\1", body.replace("xlink:href", "href"))
    body = body.replace(_INK, "currentColor").strip()
    look = f'viewBox="{box[1]}" fill="currentColor" role="img" aria-label="{html.escape(title)}"'
    return f"<svg {look}>\n{body}"


def colour(arm: str) -> str:
    """An arm's colour, the same in every chart; a variant (`hat+...`) has its arm's."""
    name = arm.partition("+")[0]
    place = ARM_ORDER.index(name) if name in ARM_ORDER else sum(map(ord, name))
    # The method is the first colour, blue; others of its family follow.
    return f"C{(place - ARM_ORDER.index('hat')) % 10}"


def milliseconds_axis(axes: "Axes", label: str, values_ms: list[float]) -> None:
    """The y axis in milliseconds, logarithmic where they are far apart; else from zero."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    least, greatest = min(values_ms, default=0.0), max(values_ms, default=0.0)
    axes.set_ylabel(f"{label}, ms")
    if least > 0 and greatest / least > LOG_FROM:
        axes.set_yscale("log")
        axes.set_ylabel(f"{label}, ms (logarithmic)")
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, 1.1 * greatest or 1)


def arm_rows(axes: "Axes", names: list[str]) -> None:
    """A row per arm, the first at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def legend_below(figure: "Figure", order: tuple[str, ...] = ()) -> None:
    """One legend for all panels, under them, each label once; those of `order` come first."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    names = [name for name in dict.fromkeys((*order, *found)) if name in found]
    if names:
        handles = [found[name] for name in names]
        columns = min(6, len(names))
        figure.legend(handles, names, loc="outside lower center", ncols=columns)

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
"""With matplotlib's own ten colours, which are seen on white and on black."""

_COLOURS = (*(f"C{number}" for number in range(10)), "#e0459b")
"""Those ten and one more, for as many arms as there are."""

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
    name: str, title: str, caption: str, height: float, draw: "Callable[[Figure], None]"
) -> Picture:
    """What `draw` puts on a figure of so many inches; the same drawing gives the same bytes."""
    from matplotlib import style
    from matplotlib.figure import Figure

    png, svg = io.BytesIO(), io.StringIO()
    # The salt keeps names apart within one page.
    with style.context({**_STYLE, "svg.hashsalt": name}, after_reset=True):
        figure = Figure(figsize=(9.6, height), layout="constrained")
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
    body = _NEEDLESS.sub("", svg[svg.index("<defs>") :]).replace("xlink:href", "href")
    body = re.sub(r"(\d\.\d\d)\d+", r"\1", body).replace("#000000", "currentColor").strip()
    look = f'viewBox="{box[1]}" fill="currentColor" role="img" aria-label="{html.escape(title)}"'
    return f"<svg {look}>\n{body}"


def colour(arm: str) -> str:
    """An arm's colour, the same in every chart; a variant (`hat+...`) has its arm's."""
    name = arm.partition("+")[0]
    place = ARM_ORDER.index(name) if name in ARM_ORDER else sum(map(ord, name))
    # The method is the first colour, blue; others of its family follow.
    return _COLOURS[(place - ARM_ORDER.index("hat")) % len(_COLOURS)]


def label_rows(axes: "Axes", names: list[str]) -> None:
    """A row per name, the first at the top; the x axis is in milliseconds."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("ms")


def legend_below(figure: "Figure") -> None:
    """One legend for all panels, under them, each label once."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    if found:
        look: dict[str, Any] = {"loc": "outside lower center", "ncols": min(6, len(found))}
        figure.legend(list(found.values()), list(found), **look)

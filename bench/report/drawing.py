"""Pictures, drawn once and written twice: PNG, and SVG that takes its colours from the page."""

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.report.palette import FAINT, INK, MUTED, colours

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PNG_DOTS_PER_INCH = 130
# Inches from which on a picture takes the page's whole width.
_WIDE = 9.0
# A line of more points than this is thinned: the page stays small.
MOST_POINTS = 160

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9,
}


# Metadata, style rules that would reach the whole page, names of groups, fonts, no rotation.
_NEEDLESS = (
    re.compile(r"<metadata>.*?</metadata>", re.DOTALL),
    re.compile(r"<style.*?</style>", re.DOTALL),
    re.compile(r"(?<=<g) id=\"[^\"]*\""),
    re.compile(r"font-family: [^;\"]*;? ?"),
    re.compile(r" transform=\"rotate\(-0 [^\"]*\""),
    re.compile(r"(?<=\n)\s+|(?<=\") (?=/>)"),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure. `name` is the PNG's name without its ending; `svg` goes into the page as is."""

    name: str
    title: str
    caption: str
    svg: str
    png: bytes
    is_wide: bool

    def write_png(self, folder: Path) -> None:
        """Put the PNG into a folder."""
        (folder / f"{self.name}.png").write_bytes(self.png)


@contextmanager
def drawing_style() -> Iterator[None]:
    """All figures are made and finished within it."""
    import matplotlib as mpl

    mpl.use("Agg")
    with mpl.rc_context(_STYLE):
        yield


def panels(num_columns: int, width: float, height: float) -> "tuple[Figure, list[Axes]]":
    """A figure with axes side by side; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, num_columns, squeeze=False)
    return figure, list(axes[0])


def legend_below(
    figure: "Figure", axes: "Sequence[Axes]", num_columns: int = 5, order: Sequence[str] = ()
) -> None:
    """One legend for all panels, under them, each label once; those of `order` come first."""
    entries: dict[str, Artist] = {}
    for each in axes:
        found, labels = each.get_legend_handles_labels()
        entries |= dict(zip(labels, found, strict=True))
    if entries:
        columns = min(num_columns, len(entries))
        ordered = [name for name in order if name in entries]
        names = [*ordered, *(name for name in entries if name not in ordered)]
        handles = [entries[name] for name in names]
        figure.legend(handles, names, loc="outside lower center", ncols=columns)


def finished(figure: "Figure", name: str, title: str, caption: str) -> Picture:
    """The picture of a figure; the same figure gives the same bytes."""
    import matplotlib as mpl

    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(png, format="png", dpi=PNG_DOTS_PER_INCH, metadata={"Software": None})
    # The layout is found; to find it again would take as long as the drawing.
    figure.set_layout_engine("none")
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    is_wide = figure.get_figwidth() > _WIDE
    return Picture(name, title, caption, _for_page(svg.getvalue(), title), png.getvalue(), is_wide)


def thinned(values: Sequence[float]) -> list[float]:
    """At most `MOST_POINTS` of sorted values, first and last among them."""
    if len(values) <= MOST_POINTS:
        return list(values)
    step = (len(values) - 1) / (MOST_POINTS - 1)
    return [values[round(place * step)] for place in range(MOST_POINTS)]


def _for_page(svg: str, title: str) -> str:
    """Without what only a file needs, at the page's width, in the page's colours and font."""
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    body = svg[svg.index("<defs>") :]
    for needless in _NEEDLESS:
        body = needless.sub("", body)
    body = re.sub(r"(\d\.\d\d)\d+", r"\1", body.replace("xlink:href", "href"))
    for colour in colours():
        body = body.replace(colour, f"var(--c{colour[1:]})")
    label = html.escape(title)
    return f'<svg viewBox="{box[1]}" role="img" aria-label="{label}">\n{body.strip()}'

"""What the axes of all pictures have in common."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Beyond this ratio of greatest to least, a logarithmic axis shows more than a plain one.
_WIDE = 12.0

Which = Literal["x", "y"]


def milliseconds_axis(axes: "Axes", which: Which, label: str, values_ms: Sequence[float]) -> None:
    """Milliseconds, logarithmic where they are far apart; else from zero. `label` may be empty."""
    least, greatest = min(values_ms, default=0.0), max(values_ms, default=0.0)
    is_wide = least > 0 and greatest / least > _WIDE
    text = (f"{label}, ms" if label else "ms") + (" (logarithmic)" if is_wide else "")
    if which == "x":
        axes.set_xlabel(text)
    else:
        axes.set_ylabel(text)
    if is_wide:
        log_axis(axes, which)
    else:
        axes.set(**{f"{which}lim": (0, 1.04 * greatest or 1)})


def log_axis(axes: "Axes", which: Which) -> None:
    """Logarithmic, with ticks at 1, 2 and 5 and no exponents."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())

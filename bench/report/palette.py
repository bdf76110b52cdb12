"""One colour, line and marker per arm, the same everywhere; and each colour's dark twin.

Colours are those of Okabe and Ito (2008), which stay apart for the colour-blind, with yellow
darkened to be seen on white. Lines and markers differ too, for print.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from bench.report.groups import arm_order

INK = "#1c2430"
FAINT = "#d3d8de"
MUTED = "#5d6875"

_Line = str | tuple[float, tuple[float, ...]]

_ARMS: dict[str, tuple[str, _Line, str]] = {
    "cloud-only": ("#6f7782", "-", "s"),
    "device-only": ("#a58a00", "-", "v"),
    "u-shape": ("#e69f00", "-", "o"),
    "u-sarathi": ("#009e73", "-", "^"),
    "u-medusa": ("#cc79a7", "-", "D"),
    "hat": ("#0072b2", "-", "o"),
    "hat-paper": ("#d55e00", "-", "X"),
    "hat-no-chunking": ("#56b4e9", (0, (5, 2)), "P"),
    "hat-no-speculation": ("#4c9a9a", (0, (1.5, 1.5)), ">"),
    "hat-no-ahead": ("#8c6bb1", (0, (3, 1.5)), "<"),
}
_OTHERS: tuple[tuple[str, _Line, str], ...] = (
    ("#5b7f1a", (0, (6, 2)), "p"),
    ("#a63fb0", (0, (4, 1, 1, 1)), "d"),
    ("#33508f", (0, (2, 1)), "8"),
    ("#b2182b", (0, (5, 1.5, 1, 1.5)), "*"),
    ("#7f5539", (0, (2, 3)), "h"),
)

# From one replica to many, light and warm to dark and cold.
_STEPS = ("#e9a23b", "#dd6e42", "#b8496b", "#7d4a9c", "#3f5fb0", "#1f83a8", "#12897b", "#3d7a35")
_STEP_MARKERS = "osD^vXP*"

WORK = {"prefill": "#e69f00", "draft": "#cc79a7", "verify": "#0072b2", "ahead": "#7fb8e0"}

PHASES = {
    "queue": "#b9bec5",
    "open": "#8f969f",
    "draft": "#cc79a7",
    "input": "#e69f00",
    "send": "#c4ad3a",
    "link": "#56b4e9",
    "cloud_queue": "#7fcdb0",
    "cloud_compute": "#009e73",
    "verify": "#0072b2",
    "recovery": "#d55e00",
    "loop": "#8c6d5a",
}
OTHER_PHASE = "#6f7782"

_DARK = {
    INK: "#e4e8ed",
    FAINT: "#3a424c",
    MUTED: "#9aa5b1",
    "#6f7782": "#a0a8b3",
    "#a58a00": "#d1b52e",
    "#e69f00": "#f0b032",
    "#009e73": "#2cc295",
    "#cc79a7": "#dd93bd",
    "#0072b2": "#4ea6e0",
    "#d55e00": "#f0803c",
    "#56b4e9": "#8fd0f5",
    "#8c6bb1": "#b195d3",
    "#4c9a9a": "#74c2c2",
    "#b2182b": "#e5606f",
    "#7f5539": "#b88a6b",
    "#5b7f1a": "#9dc35a",
    "#a63fb0": "#d283da",
    "#33508f": "#8aa3de",
    "#7d4a9c": "#b084cc",
    "#3f5fb0": "#7f9be6",
    "#b8496b": "#dd7594",
    "#1f83a8": "#55b4d6",
    "#12897b": "#3fbfae",
    "#3d7a35": "#78b870",
}


@dataclass(frozen=True, slots=True)
class Look:
    """How a line or bar is drawn."""

    colour: str
    line: _Line
    marker: str


def looks(arms: Iterable[str]) -> dict[str, Look]:
    """Of all arms of a report together, so that each keeps its look from picture to picture.

    A variant, named as its arm, a plus and what is different, has the arm's colour, dotted.
    """
    found: dict[str, Look] = {}
    num_others = 0
    for arm in sorted(set(arms), key=arm_order):
        if arm in _ARMS:
            found[arm] = Look(*_ARMS[arm])
        elif (base := arm.partition("+")[0]) in _ARMS:
            found[arm] = Look(_ARMS[base][0], (0, (1, 1.2)), _ARMS[base][2])
        else:
            found[arm] = Look(*_OTHERS[num_others % len(_OTHERS)])
            num_others += 1
    return found


def step_looks(count: int) -> list[Look]:
    """Of an ordered quantity with that many values."""
    places = [round(step * (len(_STEPS) - 1) / max(1, count - 1)) for step in range(count)]
    return [
        Look(_STEPS[place], "-", _STEP_MARKERS[step % len(_STEP_MARKERS)])
        for step, place in enumerate(places)
    ]


def colours() -> dict[str, str]:
    """Every colour a picture may have, and what it is on a dark page."""
    used = {INK, FAINT, MUTED, OTHER_PHASE, *WORK.values(), *PHASES.values(), *_STEPS}
    used |= {look[0] for look in (*_ARMS.values(), *_OTHERS)}
    return {colour: _DARK.get(colour, colour) for colour in sorted(used)}

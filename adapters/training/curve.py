"""How a training went, as a picture: held-out tokens per round and loss over its steps."""

from collections.abc import Sequence
from pathlib import Path

CURVE_FILE = "curve.svg"

_WIDTH, _HEIGHT, _MARGIN = 640, 320, 48
_COLOURS = ("#1f77b4", "#999999")

Look = tuple[int, float, float]
"""Step, recent loss, and held-out tokens per round."""


def write_curve(path: Path, history: Sequence[Look]) -> None:
    """Write the picture; without two looks there is nothing to draw, and no file."""
    if len(history) < 2:
        path.unlink(missing_ok=True)
        return
    path.write_text(curve_svg(history))


def curve_svg(history: Sequence[Look]) -> str:
    """Two lines, each with a scale of its own: tokens per round at the left, the loss at the right.

    `history` has two looks or more.
    """
    steps = [look[0] for look in history]
    tokens, losses = [look[2] for look in history], [look[1] for look in history]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _line(steps, losses, _COLOURS[1]),
        _line(steps, tokens, _COLOURS[0]),
        *_scale(tokens, _MARGIN - 6, "end", _COLOURS[0]),
        *_scale(losses, _WIDTH - _MARGIN + 6, "start", _COLOURS[1]),
        _text(_MARGIN, 20, "start", "held-out tokens per round", _COLOURS[0]),
        _text(_WIDTH - _MARGIN, 20, "end", "loss", _COLOURS[1]),
        _text(_MARGIN, _HEIGHT - 16, "start", f"step {steps[0]:,}", "black"),
        _text(_WIDTH - _MARGIN, _HEIGHT - 16, "end", f"{steps[-1]:,}", "black"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _line(steps: Sequence[int], values: Sequence[float], colour: str) -> str:
    across, up = max(1, steps[-1] - steps[0]), max(values) - min(values) or 1.0
    points = [
        f"{_MARGIN + (step - steps[0]) / across * (_WIDTH - 2 * _MARGIN):.1f},"
        f"{_HEIGHT - _MARGIN - (value - min(values)) / up * (_HEIGHT - 2 * _MARGIN):.1f}"
        for step, value in zip(steps, values, strict=True)
    ]
    return f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _scale(values: Sequence[float], x: int, anchor: str, colour: str) -> list[str]:
    return [
        _text(x, _HEIGHT - _MARGIN, anchor, f"{min(values):.2f}", colour),
        _text(x, _MARGIN, anchor, f"{max(values):.2f}", colour),
    ]


def _text(x: int, y: int, anchor: str, words: str, colour: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{words}</text>'

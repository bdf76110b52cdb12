"""Numbers as people read them, three digits and a unit; unknown ones are a dash."""

import math
from typing import TypeGuard

UNKNOWN = "-"
_PREFIXES = ("", "k", "M", "G")


def seconds(value: float | None) -> str:
    """`9.1 ms`, `210 ms`, `1.24 s`."""
    if not _is_known(value):
        return UNKNOWN
    if value >= 1:
        return f"{_three_digits(value)} s"
    return f"{1000 * value:.1f} ms" if value < 0.01 else f"{1000 * value:.0f} ms"


def num_bytes(value: float | None) -> str:
    """`812 B`, `62.1 kB`, `1.24 MB`."""
    return f"{_with_prefix(value)}B" if _is_known(value) else UNKNOWN


def rate(bytes_per_s: float | None) -> str:
    """`12.4 Mbit/s`; above ten gigabits no frame is long enough to tell."""
    if not _is_known(bytes_per_s):
        return UNKNOWN
    bits_per_s = 8 * bytes_per_s
    return "over 10 Gbit/s" if bits_per_s > 1e10 else f"{_with_prefix(bits_per_s)}bit/s"


def number(value: float | None) -> str:
    """`31.2`, `1.91`."""
    return _three_digits(value) if _is_known(value) else UNKNOWN


def share(part: float, whole: float) -> str:
    """`24 of 34 (71 %)`."""
    percent = f" ({100 * part / whole:.0f} %)" if whole else ""
    return f"{part:,.0f} of {whole:,.0f}{percent}"


def count(value: float, word: str) -> str:
    """`1 round`, `18 rounds`."""
    return f"{value:,.0f} {word}{'' if value == 1 else 's'}"


def _with_prefix(value: float) -> str:
    place = 0
    while value >= 1000 and place < len(_PREFIXES) - 1:
        value /= 1000
        place += 1
    return f"{_three_digits(value) if place else f'{value:.0f}'} {_PREFIXES[place]}"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _is_known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)

"""Numbers as the page writes them."""

import math

from bench.records import LinkRecord

NONE = "\u2013"
_THIN_SPACE = "\u202f"


def milliseconds(seconds: float | None) -> str:
    """Three digits that count, or all before the point: 4.53, 45.3, 453, 4 530."""
    return NONE if seconds is None else number(1000 * seconds)


def number(value: float) -> str:
    """Three digits that count, or all before the point."""
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:,.{digits}f}".replace(",", _THIN_SPACE)


def percent(share: float, sign: str = "") -> str:
    """A share as percent, or a difference with its sign if `sign` is "+"."""
    return f"{100 * share:{sign}.0f}{_THIN_SPACE}%".replace("-", "\u2212")


def num_bytes(value: float | None) -> str:
    """Bytes, with a unit from a thousand on."""
    if value is None:
        return NONE
    if value < 1000:
        return f"{value:.0f}{_THIN_SPACE}B"
    thousands = min(3, int(math.log10(value)) // 3)
    return f"{number(value / 1000**thousands)}{_THIN_SPACE}{'kMG'[thousands - 1]}B"


def rate(bytes_per_s: float | None) -> str:
    """A link's rate in Mbit/s."""
    return "unlimited" if bytes_per_s is None else f"{8e-6 * bytes_per_s:.3g} Mbit/s"


def link_asked(link: LinkRecord) -> str:
    """A link in one line, as it was asked for."""
    up, down = rate(link.uplink_bytes_per_s), rate(link.downlink_bytes_per_s)
    rates = f"trace {link.trace}" if link.trace is not None else f"{up} up, {down} down"
    jitter = f", jitter {1000 * link.jitter_s:g} ms" if link.jitter_s else ""
    loss = f", loss {100 * link.loss:.3g} %" if link.loss else ""
    loss += f" in bursts of {1000 * link.burst_s:g} ms" if link.burst_s else ""
    if link.reorder:
        loss += f", {100 * link.reorder:.3g} % of packets {1000 * link.late_s:g} ms late"
    move = f", another address every {link.move_s:g} s" if link.move_s else ""
    return f"{link.kind}, {rates}, round trip {2000 * link.delay_s:g} ms{jitter}{loss}{move}"


def link_measured(link: LinkRecord) -> str:
    """A link in one line, as it was measured; empty without a measurement."""
    up, down = link.measured_uplink_bytes_per_s, link.measured_downlink_bytes_per_s
    parts = [f"{rate(each)} {way}" for each, way in ((up, "up"), (down, "down")) if each]
    times = [f"{name} {milliseconds(value)}" for name, value in (link.measured_rtt_s or {}).items()]
    if times:
        parts.append(f"round trip {', '.join(times)} ms")
    return ", ".join(parts)

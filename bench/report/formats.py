"""Numbers as the page writes them."""

from bench.records import LinkRecord

NONE = "\u2013"
_THIN_SPACE = "\u202f"


def milliseconds(seconds: float | None) -> str:
    """Three digits that count, or all before the point: 4.53, 45.3, 453, 4 530."""
    return NONE if seconds is None else number(1000 * seconds)


def number(value: float | None) -> str:
    """Three digits that count, or all before the point."""
    if value is None:
        return NONE
    for limit, digits in ((9.995, 2), (99.95, 1)):
        if abs(value) < limit:
            return f"{value:.{digits}f}"
    return f"{value:,.0f}".replace(",", _THIN_SPACE)


def percent(share: float | None) -> str:
    """A share as percent."""
    return NONE if share is None else f"{100 * share:.0f}{_THIN_SPACE}%"


def signed_percent(difference: float) -> str:
    """A difference as percent, with its sign."""
    return f"{100 * difference:+.0f}{_THIN_SPACE}%".replace("-", "\u2212")


def num_bytes(value: float | None) -> str:
    """Bytes, with a unit from a thousand on."""
    if value is None:
        return NONE
    for limit, unit in ((1e3, "B"), (1e6, "kB"), (1e9, "MB")):
        if value < limit:
            scaled = value * 1e3 / limit
            return f"{scaled:.0f}{_THIN_SPACE}B" if unit == "B" else _scaled(scaled, unit)
    return _scaled(value / 1e9, "GB")


def rate(bytes_per_s: float | None) -> str:
    """A link's rate in Mbit/s."""
    return "unlimited" if bytes_per_s is None else f"{8e-6 * bytes_per_s:.3g} Mbit/s"


def link_asked(link: LinkRecord) -> str:
    """A link in one line, as it was asked for."""
    if link.trace is not None:
        parts = [f"{link.kind}, trace {link.trace}"]
    else:
        up, down = rate(link.uplink_bytes_per_s), rate(link.downlink_bytes_per_s)
        parts = [f"{link.kind}, {up} up, {down} down"]
    parts.append(f"round trip {2000 * link.delay_s:g} ms")
    if link.jitter_s:
        parts.append(f"jitter {1000 * link.jitter_s:g} ms")
    if link.loss:
        parts.append(f"loss {100 * link.loss:.3g} %")
    return ", ".join(parts)


def link_measured(link: LinkRecord) -> str:
    """A link in one line, as it was measured; empty without a measurement."""
    parts = []
    up, down = link.measured_uplink_bytes_per_s, link.measured_downlink_bytes_per_s
    if up is not None:
        parts.append(f"{rate(up)} up")
    if down is not None:
        parts.append(f"{rate(down)} down")
    times = [f"{name} {milliseconds(value)}" for name, value in (link.measured_rtt_s or {}).items()]
    if times:
        parts.append(f"round trip {', '.join(times)} ms")
    return ", ".join(parts)


def _scaled(value: float, unit: str) -> str:
    return f"{number(value)}{_THIN_SPACE}{unit}"

"""What a link shall be like, and the short text in which people write it."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from process.errors import ConfigError

MTU_BYTES = 1500
"""Largest IP packet, as on Ethernet."""

MIN_QUEUE_BYTES = 32 * (MTU_BYTES + 14)
"""A smaller buffer would drop packets of TCP's first round (10 segments) and the ones behind it."""

UNSHAPED = "loopback"
"""The text of a link without any shaping."""

_EXAMPLE = "up=20mbit,down=50mbit,rtt=40ms,jitter=2ms,loss=0.5%"
_BITS = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6}
_MAX_DELAY_S = 10.0


class LinkSpecError(ConfigError):
    """A link was not described rightly; the message says what was expected and what came."""


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """A link as asked for; the default is not shaped at all.

    Rates count Ethernet frames, None is unlimited. `delay_s` is one way and the least there is;
    each packet waits up to `jitter_s` longer, evenly drawn, and never overtakes another. `loss` is
    each packet's chance, either way. `trace` names a recording, or a file of one, that then sets
    both rates. `queue_bytes` is each direction's buffer before the link; what does not fit is
    dropped. None means one bandwidth-delay product (rate times `rtt_s`), at least
    `MIN_QUEUE_BYTES`, as routers are commonly dimensioned.
    """

    uplink_bytes_per_s: float | None = None
    downlink_bytes_per_s: float | None = None
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    trace: str | None = None
    queue_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no link can be.

        Raises:
            LinkSpecError: a value is outside its range, or two contradict each other.
        """
        for name in ("uplink_bytes_per_s", "downlink_bytes_per_s"):
            rate = getattr(self, name)
            if rate is not None and not (0 < rate < math.inf):
                raise LinkSpecError(f"{name}: expected more than 0 and finite, got {rate}")
        for name in ("delay_s", "jitter_s"):
            delay_s = getattr(self, name)
            if not 0 <= delay_s <= _MAX_DELAY_S:
                raise LinkSpecError(f"{name}: expected 0 to {_MAX_DELAY_S:g}, got {delay_s}")
        if not 0 <= self.loss < 1:
            raise LinkSpecError(f"loss: expected at least 0 and less than 1, got {self.loss}")
        if self.queue_bytes is not None and self.queue_bytes < MTU_BYTES + 14:
            raise LinkSpecError(
                f"queue_bytes: expected room for a packet, {MTU_BYTES + 14}, got {self.queue_bytes}"
            )
        if self.trace is not None and (self.uplink_bytes_per_s or self.downlink_bytes_per_s):
            raise LinkSpecError("expected rates or a trace, got both")

    @property
    def rtt_s(self) -> float:
        """The least round-trip time."""
        return 2 * self.delay_s

    @property
    def is_shaped(self) -> bool:
        """Whether anything at all is asked for."""
        return self != LinkSpec()

    def buffer_bytes(self, bytes_per_s: float) -> int:
        """The bytes that may wait before a direction with this (mean) rate."""
        if self.queue_bytes is not None:
            return self.queue_bytes
        return max(MIN_QUEUE_BYTES, round(bytes_per_s * self.rtt_s))


def parse_link_spec(text: str) -> LinkSpec:
    """Read a link from text such as `up=20mbit,down=50mbit,rtt=40ms,jitter=2ms,loss=0.5%`.

    Keys: `up`, `down` (rates) or `trace`; `rtt` or `delay` (one way); `jitter`, `loss`, `queue`.
    `loopback` is a link without shaping.

    Raises:
        LinkSpecError: unknown key, wrong unit, or values that contradict each other.
    """
    if text.strip() == UNSHAPED:
        return LinkSpec()
    given: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise LinkSpecError(f"link: expected text like {_EXAMPLE}, got {part.strip()!r}")
        if key not in _READERS:
            raise LinkSpecError(f"link: expected one of {', '.join(_READERS)}, got {key!r}")
        if key in given:
            raise LinkSpecError(f"link: expected {key} once, got it twice")
        given[key] = value
    if "rtt" in given and "delay" in given:
        raise LinkSpecError("link: expected rtt or delay, got both")
    fields = dict(_READERS[key](key, value) for key, value in given.items())
    return LinkSpec(**fields)  # type: ignore[arg-type]


def link_text(spec: LinkSpec) -> str:
    """The text that `parse_link_spec` reads as this link."""
    if not spec.is_shaped:
        return UNSHAPED
    parts = []
    rates = (("up", spec.uplink_bytes_per_s), ("down", spec.downlink_bytes_per_s))
    parts += [f"{key}={_number(rate * 8 / 1e6)}mbit" for key, rate in rates if rate is not None]
    if spec.trace is not None:
        parts.append(f"trace={spec.trace}")
    if spec.delay_s:
        parts.append(f"rtt={_number(spec.rtt_s * 1e3)}ms")
    if spec.jitter_s:
        parts.append(f"jitter={_number(spec.jitter_s * 1e3)}ms")
    if spec.loss:
        parts.append(f"loss={_number(spec.loss * 100)}%")
    if spec.queue_bytes is not None:
        parts.append(f"queue={spec.queue_bytes}b")
    return ",".join(parts)


def _number(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _quantity(key: str, text: str, units: dict[str, float], example: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z%]+)", text.lower())
    if match is None or match[2] not in units:
        raise LinkSpecError(
            f"{key}: expected a number with {_either(units)}, {example}; got {text!r}"
        )
    return float(match[1]) * units[match[2]]


def _either(units: dict[str, float]) -> str:
    return " or ".join(units)


def _rate(field: str) -> "_Reader":
    def read(key: str, text: str) -> tuple[str, float]:
        return field, _quantity(key, text, _BITS, "such as 20mbit") / 8

    return read


def _seconds(field: str, share: float = 1.0) -> "_Reader":
    def read(key: str, text: str) -> tuple[str, float]:
        return field, _quantity(key, text, _SECONDS, "such as 40ms") * share

    return read


def _loss(key: str, text: str) -> tuple[str, float]:
    return "loss", _quantity(key, text, {"%": 0.01}, "such as 0.5%")


def _trace(key: str, text: str) -> tuple[str, str]:
    return "trace", text


def _queue(key: str, text: str) -> tuple[str, int]:
    return "queue_bytes", round(_quantity(key, text, _BYTES, "such as 64kb"))


_Reader = Callable[[str, str], tuple[str, float | int | str]]

_READERS: dict[str, _Reader] = {
    "up": _rate("uplink_bytes_per_s"),
    "down": _rate("downlink_bytes_per_s"),
    "rtt": _seconds("delay_s", 0.5),
    "delay": _seconds("delay_s"),
    "jitter": _seconds("jitter_s"),
    "loss": _loss,
    "trace": _trace,
    "queue": _queue,
}

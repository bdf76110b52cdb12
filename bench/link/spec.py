"""What a link shall be like, and the short text in which people write it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from process.errors import ConfigError

FRAME_BYTES = 1514
"""The longest Ethernet frame: an IP packet of 1500 bytes and its header."""

MIN_QUEUE_BYTES = 32 * FRAME_BYTES
"""A smaller buffer would drop packets of TCP's first round (10 segments) and the ones behind it."""

UNSHAPED = "loopback"
"""The text of a link without any shaping."""

_EXAMPLE = "up=20mbit,down=50mbit,rtt=40ms,jitter=2ms,loss=0.5%"
_MAX_DELAY_S = 10.0
_LEAST_BURST_S = 1e-3
_LEAST_MOVE_S = 0.5


class LinkSpecError(ConfigError):
    """A link was not described rightly; the message says what was expected and what came."""


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """A link as asked for; the default is not shaped at all."""

    uplink_bytes_per_s: float | None = None
    """Of Ethernet frames; None is unlimited."""
    downlink_bytes_per_s: float | None = None
    delay_s: float = 0.0
    """One way, and the least there is."""
    jitter_s: float = 0.0
    """Each packet waits up to so much longer, evenly drawn, and never overtakes another."""
    loss: float = 0.0
    """Each packet's chance, either way; with bursts, the share of time in which all are lost."""
    trace: str | None = None
    """A recording, or a file of one, that sets both rates."""
    queue_bytes: int | None = None
    """Each direction's buffer before the link; what does not fit is dropped. None: one
    bandwidth-delay product, as routers are commonly dimensioned, at least `MIN_QUEUE_BYTES`."""
    burst_s: float = 0.0
    """The mean time for which all is lost, of a Gilbert-Elliott channel: both its states last
    exponentially long. 0: each packet is lost by itself."""
    reorder: float = 0.0
    """Each packet's chance to be overtaken by those that come within `late_s` behind it."""
    late_s: float = 0.005
    """How much later an overtaken packet arrives."""
    move_s: float | None = None
    """So often the device's end gets another address and loses the one before, without a word to
    anybody, as a phone that changes networks. None: never."""

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
        self._check_troubles()
        if self.queue_bytes is not None and self.queue_bytes < FRAME_BYTES:
            raise LinkSpecError(
                f"queue_bytes: expected room for a packet, {FRAME_BYTES}, got {self.queue_bytes}"
            )
        if self.trace is not None and (self.uplink_bytes_per_s or self.downlink_bytes_per_s):
            raise LinkSpecError("expected rates or a trace, got both")

    def _check_troubles(self) -> None:
        if self.burst_s and not _LEAST_BURST_S <= self.burst_s <= _MAX_DELAY_S:
            raise LinkSpecError(
                f"burst_s: expected 0 or {_LEAST_BURST_S:g} to {_MAX_DELAY_S:g}, got {self.burst_s}"
            )
        if self.burst_s and not self.loss:
            raise LinkSpecError("burst: expected a loss that comes in bursts, got none")
        if not 0 <= self.reorder < 1:
            raise LinkSpecError(f"reorder: expected at least 0 and less than 1, got {self.reorder}")
        if not 0 < self.late_s <= _MAX_DELAY_S:
            raise LinkSpecError(
                f"late_s: expected more than 0 and at most {_MAX_DELAY_S:g}, got {self.late_s}"
            )
        if self.move_s is not None and not _LEAST_MOVE_S <= self.move_s < math.inf:
            raise LinkSpecError(
                f"move_s: expected at least {_LEAST_MOVE_S:g} and finite, got {self.move_s}"
            )

    @property
    def rtt_s(self) -> float:
        """The least round-trip time."""
        return 2 * self.delay_s

    @property
    def is_shaped(self) -> bool:
        """Whether anything at all is asked for."""
        return self != _UNSHAPED_SPEC

    def buffer_bytes(self, bytes_per_s: float) -> int:
        """The bytes that may wait before a direction with this (mean) rate."""
        if self.queue_bytes is not None:
            return self.queue_bytes
        return max(MIN_QUEUE_BYTES, round(bytes_per_s * self.rtt_s))


_UNSHAPED_SPEC = LinkSpec()


@dataclass(frozen=True, slots=True)
class _Quantity:
    """How a field of `LinkSpec` is written: a number and one of these units."""

    field: str
    units: Mapping[str, float]
    written: str
    """The unit in which we write it."""
    example: str

    def value(self, key: str, text: str) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z%]+)", text.lower())
        if match is None or match[2] not in self.units:
            units = " or ".join(self.units)
            raise LinkSpecError(
                f"{key}: expected a number with {units}, such as {self.example}; got {text!r}"
            )
        return float(match[1]) * self.units[match[2]]


_BITS = {"bit": 1 / 8, "kbit": 1e3 / 8, "mbit": 1e6 / 8, "gbit": 1e9 / 8}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_HALF_SECONDS = {unit: seconds / 2 for unit, seconds in _SECONDS.items()}
_TRACE = "trace"
_QUANTITIES = MappingProxyType(
    {
        "up": _Quantity("uplink_bytes_per_s", _BITS, "mbit", "20mbit"),
        "down": _Quantity("downlink_bytes_per_s", _BITS, "mbit", "20mbit"),
        "rtt": _Quantity("delay_s", _HALF_SECONDS, "ms", "40ms"),
        "delay": _Quantity("delay_s", _SECONDS, "ms", "40ms"),
        "jitter": _Quantity("jitter_s", _SECONDS, "ms", "40ms"),
        "loss": _Quantity("loss", {"%": 0.01}, "%", "0.5%"),
        "burst": _Quantity("burst_s", _SECONDS, "ms", "30ms"),
        "reorder": _Quantity("reorder", {"%": 0.01}, "%", "0.5%"),
        "late": _Quantity("late_s", _SECONDS, "ms", "5ms"),
        "move": _Quantity("move_s", _SECONDS, "s", "10s"),
        "queue": _Quantity("queue_bytes", {"b": 1.0, "kb": 1e3, "mb": 1e6}, "b", "64kb"),
    }
)


def parse_link_spec(text: str) -> LinkSpec:
    """Read a link from text such as `up=20mbit,down=50mbit,rtt=40ms,jitter=2ms,loss=0.5%`.

    Keys: `up`, `down` (rates) or `trace`; `rtt` or `delay` (one way); `jitter`, `queue`; `loss`,
    `burst` (how long one lasts); `reorder` and `late`; `move`. `loopback` is not shaped.

    Raises:
        LinkSpecError: unknown key, wrong unit, or values that contradict each other.
    """
    if text.strip() == UNSHAPED:
        return _UNSHAPED_SPEC
    given: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise LinkSpecError(f"link: expected text like {_EXAMPLE}, got {part.strip()!r}")
        if key not in (*_QUANTITIES, _TRACE):
            known = ", ".join((*_QUANTITIES, _TRACE))
            raise LinkSpecError(f"link: expected one of {known}, got {key!r}")
        if key in given:
            raise LinkSpecError(f"link: expected {key} once, got it twice")
        given[key] = value
    if "rtt" in given and "delay" in given:
        raise LinkSpecError("link: expected rtt or delay, got both")
    if "late" in given and "reorder" not in given:
        raise LinkSpecError("link: expected late with reorder, got it alone")
    trace = given.pop(_TRACE, None)
    values = {_QUANTITIES[key].field: _QUANTITIES[key].value(key, given[key]) for key in given}
    queue = values.pop("queue_bytes", None)
    return LinkSpec(**values, trace=trace, queue_bytes=None if queue is None else round(queue))


def link_text(spec: LinkSpec) -> str:
    """The text that `parse_link_spec` reads as this link."""
    if not spec.is_shaped:
        return UNSHAPED
    parts = [] if spec.trace is None else [f"{_TRACE}={spec.trace}"]
    for key, quantity in _QUANTITIES.items():
        value = getattr(spec, quantity.field)
        if value != getattr(_UNSHAPED_SPEC, quantity.field) and key != "delay":  # written as rtt
            number = f"{value / quantity.units[quantity.written]:.6f}".rstrip("0").rstrip(".")
            parts.append(f"{key}={number}{quantity.written}")
    return ",".join(parts)

"""Which number format the middle layers compute in, and which one rows cross the link in.

Decides, and measures nothing: the times come from `cloud_server.engines.torch.probe`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from wire.messages import Dtype

DtypeSetting = Literal["auto", "float32", "float16", "bfloat16"]

FORMATS: Final = MappingProxyType(
    {"float32": Dtype.FP32, "float16": Dtype.FP16, "bfloat16": Dtype.BF16}
)
"""Number formats as settings and manifests name them."""

NAMES: Final = MappingProxyType({dtype: name for name, dtype in FORMATS.items()})

PROMPT_ROWS: Final = 256
ROUND_ROWS: Final = 4
NUM_ROUNDS: Final = 64
"""What formats are compared on: an ordinary request, a prompt of 256 tokens and an answer of 64
rounds with a draft of 3 tokens each."""

_WORTHWHILE: Final = 0.9
"""float32 takes twice the memory, so it must save a tenth of the time; that is also more than two
measurements of the same thing differ."""

_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class FormatTimes:
    """Seconds that the middle layers take for `PROMPT_ROWS` rows and for `ROUND_ROWS` rows."""

    prompt_s: float
    round_s: float

    @property
    def request_s(self) -> float:
        """Of the request that formats are compared on."""
        return self.prompt_s + NUM_ROUNDS * self.round_s


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that float32 needs for weights and KV cache, and those that are free."""

    needed_bytes: int
    free_bytes: int

    @property
    def is_enough(self) -> bool:
        """Whether float32 fits."""
        return self.needed_bytes <= self.free_bytes


@dataclass(frozen=True, slots=True)
class FormatChoice:
    """A number format, and why, for the log."""

    dtype: Dtype
    reason: str


def is_open(asked: str, stored: Dtype, *, is_cpu: bool) -> bool:
    """Whether there is a choice: nothing was asked for, and a processor may prefer float32."""
    return asked == "auto" and is_cpu and stored is not Dtype.FP32


def given_format(asked: str, stored: Dtype) -> FormatChoice:
    """The format where there is no choice: what was asked for, else the checkpoint's."""
    if asked != "auto":
        return FormatChoice(FORMATS[asked], f"{asked}: as set by dtype")
    return FormatChoice(stored, f"{NAMES[stored]}: as in the bundle")


def no_room_for_float32(stored: Dtype, room: Room) -> FormatChoice:
    """The checkpoint's format, because float32 does not fit; nothing need be measured then."""
    needed, free = room.needed_bytes / _GIB, room.free_bytes / _GIB
    why = f"float32 would take {needed:.3g} GiB with its KV cache, {free:.3g} GiB are free"
    return FormatChoice(stored, f"{NAMES[stored]}: as in the bundle; {why}")


def choose_format(stored: Dtype, times: Mapping[Dtype, FormatTimes], room: Room) -> FormatChoice:
    """float32 where it fits and answers an ordinary request clearly sooner, else `stored`.

    Args:
        stored: The checkpoint's format.
        times: What was measured on this machine, in `stored` and in float32.
        room: What float32 would need, and what is free.
    """
    if not room.is_enough:
        return no_room_for_float32(stored, room)
    own, wide = times[stored], times[Dtype.FP32]
    is_faster = wide.request_s < _WORTHWHILE * own.request_s
    chosen = Dtype.FP32 if is_faster else stored
    name = NAMES[stored]
    figures = (
        f"{PROMPT_ROWS} rows take about {_seconds(own.prompt_s)} in {name} and "
        f"{_seconds(wide.prompt_s)} in float32 on this processor, {ROUND_ROWS} rows "
        f"{_seconds(own.round_s)} and {_seconds(wide.round_s)}"
    )
    return FormatChoice(chosen, f"{NAMES[chosen]}: {figures}")


def _seconds(seconds: float) -> str:
    if seconds < 0.1:
        return f"{1000 * seconds:.2g} ms"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def wire_format(asked: str, engine_asked: str, stored: Dtype) -> Dtype:
    """The format in which rows cross the link, the same for every device.

    auto is the checkpoint's, whatever the engine has chosen for itself: a float32 engine does not
    double the uplink unasked. Nor does it send float32 rows to an engine that was told to compute
    in bfloat16: it would only round them. float16 is never chosen for a checkpoint in another
    format, whose numbers may be beyond its range.
    """
    if asked != "auto":
        return FORMATS[asked]
    return Dtype.BF16 if engine_asked == "bfloat16" and stored is Dtype.FP32 else stored

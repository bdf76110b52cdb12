"""The lossy codecs: what they need to know of a model, and who asks for them (W42, W43)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Final

import numpy as np

from wire.coding.integers import INT6, INT8, IntegerCoder, IntegerFormat
from wire.coding.tables import read_sections
from wire.errors import FaultCode, RemoteProtocolError
from wire.limits import RowLimits
from wire.messages import Ability, Codec

UP_KEPT: Final = 3
DOWN_KEPT: Final = 4
"""Sections of tables: channels that travel as they are, u32 each, ascending."""

MAX_KEPT: Final = 64

_NUM_KEPT: Final = 6
"""Twice as many gain a quarter, at twice the price."""

FORMATS: Final[Mapping[Codec, IntegerFormat]] = MappingProxyType(
    {Codec.INT8: INT8, Codec.INT6: INT6}
)
"""The lossy codecs."""

LOSSY_CODECS: Final = sum(1 << codec for codec in FORMATS)
"""As Hello and Welcome have them."""

_REPLIES: Final = MappingProxyType(
    {Codec.INT8: Ability.INT8_REPLIES, Codec.INT6: Ability.INT6_REPLIES}
)
LOSSY_ABILITIES: Final = LOSSY_CODECS | sum(1 << ability for ability in _REPLIES.values())
"""All bits of `codecs` that stand for numbers that change."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Channels of each direction that travel as they are; none where weights are rotated."""

    up: tuple[int, ...] = ()
    down: tuple[int, ...] = ()

    @property
    def sections(self) -> dict[int, bytes]:
        """As tables hold them."""
        both = {UP_KEPT: self.up, DOWN_KEPT: self.down}
        return {kind: np.array(each, "<u4").tobytes() for kind, each in both.items() if each}


def kept_channels(up_largest: Sequence[int], down_largest: Sequence[int]) -> Kept:
    """The first few of the channels of each direction that stand out."""
    up, down = (tuple(sorted(each[:_NUM_KEPT])) for each in (up_largest, down_largest))
    return Kept(up, down)


def read_kept(tables: bytes, hidden_size: int) -> Kept:
    """The channels in a Welcome's tables.

    Raises:
        RemoteProtocolError: BAD_FRAME when they are no tables, or not channels in order.
    """
    sections = read_sections(tables)
    return Kept(*(_channels(sections.get(kind, b""), hidden_size) for kind in (UP_KEPT, DOWN_KEPT)))


def lossy_coders(
    rows: RowLimits, tables: bytes
) -> tuple[dict[Codec, IntegerCoder], dict[Codec, IntegerCoder]]:
    """Those that both sides speak, up and down.

    Raises:
        RemoteProtocolError: as `read_kept`.
    """
    agreed = {codec: form for codec, form in FORMATS.items() if rows.codecs >> codec & 1}
    if not agreed:
        return {}, {}
    kept = read_kept(tables, rows.hidden_size)
    up, down = (
        {
            codec: IntegerCoder(form, rows.dtype, rows.hidden_size, channels)
            for codec, form in agreed.items()
        }
        for channels in (kept.up, kept.down)
    )
    return up, down


@dataclass(frozen=True, slots=True)
class Rounding:
    """Which rows a device's operator lets be rounded, each in which codec; None: not these."""

    prompt: Codec | None = None
    up: Codec | None = None
    """Rows that are not of a prompt."""
    down: Codec | None = None

    @property
    def codecs(self) -> int:
        """As a Hello has them: the codecs, and the Replies that are asked for."""
        bits = sum({1 << codec for codec in (self.prompt, self.up, self.down) if codec is not None})
        return bits | (0 if self.down is None else 1 << _REPLIES[self.down])

    @property
    def named(self) -> dict[str, str]:
        """For people and programs: `{"prompt": "int6"}`."""
        each = {"prompt": self.prompt, "up": self.up, "down": self.down}
        return {way: codec.name.lower() for way, codec in each.items() if codec is not None}

    def agreed(self, codecs: int) -> "Rounding":
        """What is left of it on a connection of these codecs: all or nothing."""
        return self if self.codecs & codecs == self.codecs else Rounding()


NO_ROUNDING: Final = Rounding()


def reply_codec(frame_codec: Codec, codecs: int) -> Codec:
    """What a Reply is coded in, to a frame in `frame_codec` on a link of these `codecs`."""
    for codec, ability in _REPLIES.items():
        if codecs >> ability & 1 and codecs >> codec & 1:
            return codec
    if frame_codec not in FORMATS:
        return frame_codec
    return Codec.EXACT if codecs >> Codec.EXACT & 1 else Codec.RAW


def _channels(section: bytes, hidden_size: int) -> tuple[int, ...]:
    if len(section) % 4 or len(section) > 4 * MAX_KEPT:
        raise _broken(f"at most {MAX_KEPT} channels of 4 bytes, got {len(section)} bytes")
    channels = tuple(np.frombuffer(section, "<u4").tolist())
    if any(low >= high for low, high in pairwise((*channels, hidden_size))):
        raise _broken(f"ascending channels below {hidden_size}, got {channels}")
    return channels


def _broken(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(FaultCode.BAD_FRAME, f"tables: expected {reason}")

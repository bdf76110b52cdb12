"""What a Welcome's `tables` hold: a centre for each channel and direction (rules W39 and W41).

Sections follow each other, each its kind (u8), its length (u32) and so many bytes. A kind that is
not known is skipped: what a later codec needs may stand beside what this one does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import Dtype

UP_CENTRES: Final = 1
DOWN_CENTRES: Final = 2

_HEAD: Final = Struct("<BI")

_STEPS: Final = {Dtype.FP32: 1, Dtype.BF16: 1, Dtype.FP16: 8}
"""How much the byte that is coded grows when a number is doubled."""

MAX_SCALE: Final = 100.0


@dataclass(frozen=True, slots=True)
class Centres:
    """What EXACT subtracts from each channel's coded byte, `[H]` uint8 each; zeros are legal."""

    up: NDArray[np.uint8]
    down: NDArray[np.uint8]

    @property
    def tables(self) -> bytes:
        """As a Welcome carries them."""
        centres = {UP_CENTRES: self.up.tobytes(), DOWN_CENTRES: self.down.tobytes()}
        return write_sections(centres)


def no_centres(hidden_size: int) -> Centres:
    """For a model of which nothing is known: rows are then centred by their own medians alone."""
    zeros = np.zeros(hidden_size, np.uint8)
    return Centres(zeros, zeros)


def centres_of(scales: Sequence[float], dtype: Dtype) -> NDArray[np.uint8]:
    """Centres `[H]` for channels whose numbers are typically `2 ** scale` times the row's."""
    return np.round(np.array(scales) * _STEPS[dtype]).astype(np.int64).astype(np.uint8)


def read_centres(tables: bytes, hidden_size: int) -> Centres:
    """The centres in a Welcome's tables; zeros where it has none.

    Raises:
        RemoteProtocolError: BAD_FRAME when they are no tables, or for another number of channels.
    """
    sections = read_sections(tables)
    centres = no_centres(hidden_size)
    return Centres(
        _centres(sections.get(UP_CENTRES), centres.up),
        _centres(sections.get(DOWN_CENTRES), centres.down),
    )


def write_sections(sections: Mapping[int, bytes]) -> bytes:
    """Sections as one byte string, in the order in which they are given."""
    return b"".join(_HEAD.pack(kind, len(data)) + data for kind, data in sections.items())


def read_sections(tables: bytes) -> dict[int, bytes]:
    """The sections of a byte string by their kinds.

    Raises:
        RemoteProtocolError: BAD_FRAME when it is none, or has a kind twice.
    """
    found: dict[int, bytes] = {}
    place = 0
    while place < len(tables):
        if len(tables) - place < _HEAD.size:
            raise _broken(f"a section's {_HEAD.size} bytes, got {len(tables) - place}")
        kind, num_bytes = _HEAD.unpack_from(tables, place)
        place += _HEAD.size
        if kind in found or num_bytes > len(tables) - place:
            left = len(tables) - place
            raise _broken(f"a new section of at most {left} bytes, got {num_bytes} of kind {kind}")
        found[kind] = tables[place : place + num_bytes]
        place += num_bytes
    return found


def _centres(section: bytes | None, default: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if section is None:
        return default
    if len(section) != default.size:
        raise _broken(f"{default.size} centres, got {len(section)}")
    return np.frombuffer(section, np.uint8)


def _broken(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(FaultCode.BAD_FRAME, f"tables: expected {reason}")

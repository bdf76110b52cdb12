"""A codec under virtual time: rows of simulated texts in fewer bytes, for a time.

What a simulated row holds tells nothing of how short a real one is coded. So a payload takes a
share of its bytes that was measured on real rows, and each side the time that was measured.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from wire.coding.row_codecs import RowCodecs
from wire.limits import RowLimits
from wire.messages import Codec, Payload

_T = TypeVar("_T")

_NUMBER_BYTES = 2
"""Of a row, all that is not zero (`text.py`)."""


@dataclass(frozen=True, slots=True)
class CodecTimes:
    """A codec as measured: the share of RAW bytes that is left, and seconds for a RAW byte."""

    share: float
    encode_byte_s: float
    decode_byte_s: float


EXACT_BF16 = CodecTimes(0.667, 5.5e-9, 2.5e-9)
"""The exact codec on SmolLM2's rows, frames of 256 rows, on a core of an AMD EPYC."""


class SimCoding:
    """The codecs of one program, and the thread on which the time of long frames passes."""

    def __init__(self, times: CodecTimes, codecs: int = 1 << Codec.RAW | 1 << Codec.EXACT) -> None:
        self.codecs = codecs
        """Which it speaks, as Hello and Welcome have them."""
        self._times = times
        self._spent_s = 0.0

    def make(self, rows: RowLimits, tables: bytes) -> RowCodecs:
        """As `wire.coding.row_codecs.row_codecs`."""
        if not rows.codecs >> Codec.EXACT & 1:
            return RowCodecs({}, {}, rows.row_bytes)
        coder = {Codec.EXACT: _Coder(self, rows.row_bytes)}
        return RowCodecs(coder, coder, rows.row_bytes)

    async def aside(self, call: Callable[[], _T]) -> _T:
        """Have a call made that takes as long as what it coded."""
        self._spent_s = 0.0
        result = call()
        await asyncio.sleep(self._spent_s)
        return result

    def encoded(self, raw: Payload, row_bytes: int) -> bytes:
        """What each row holds, and zeros up to the codec's share."""
        self._spent_s += len(raw) * self._times.encode_byte_s
        view = memoryview(raw)
        starts = range(0, len(raw), row_bytes)
        numbers = b"".join(view[start : start + _NUMBER_BYTES] for start in starts)
        return numbers.ljust(int(self._times.share * len(raw)), b"\0")

    def decoded(self, payload: Payload, num_rows: int, row_bytes: int) -> memoryview:
        """The rows again."""
        raw = bytearray(num_rows * row_bytes)
        self._spent_s += len(raw) * self._times.decode_byte_s
        for number in range(num_rows):
            start, place = number * row_bytes, number * _NUMBER_BYTES
            raw[start : start + _NUMBER_BYTES] = payload[place : place + _NUMBER_BYTES]
        return memoryview(raw)


@dataclass(frozen=True, slots=True)
class _Coder:
    """Both directions alike."""

    coding: SimCoding
    row_bytes: int

    def encode(self, raw: Payload, num_rows: int) -> bytes | None:
        return self.coding.encoded(raw, self.row_bytes)

    def decode(self, payload: Payload, num_rows: int) -> memoryview:
        return self.coding.decoded(payload, num_rows, self.row_bytes)


NO_SIM_CODING = SimCoding(EXACT_BF16, 1 << Codec.RAW)
"""Of a program that sends rows as they are."""

"""RAW rows to EXACT ones and back, bit for bit (rules W40 and W41).

Of a hidden state the exponent is nearly all that can be foretold: it lies within a few units of
what is usual for its channel and its row. So numbers are rotated left by one bit, which puts the
exponent (in FP16 with three bits of the mantissa) into the high byte and the sign with the rest
into the low ones: one, in FP32 three. Low bytes travel as they are. From high bytes the channel's
centre and the row's shift are subtracted, modulo 256, and what is left is Huffman-coded.
"""

import zlib
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from wire.coding.fixed_code import FixedCode
from wire.errors import FaultCode, RemoteProtocolError
from wire.limits import ITEM_BYTES
from wire.messages import Dtype, Payload

_FIXED: Final = 0
_OWN: Final = 1
"""The first byte: in which code the high bytes are, the fixed one or one that the stream brings."""

_MOST_FIXED_VALUES: Final = 1 << 15
"""More values pay for a code of their own, some 60 bytes, and zlib writes them as fast."""

_MOST_SAMPLED: Final = 256
"""Channels that a row's median is taken of."""

_WINDOW: Final = -15
"""A DEFLATE stream without zlib's header and sum: TCP and TLS have better ones."""

_MEDIAN_AT: Final = {Dtype.FP32: 0, Dtype.BF16: 0, Dtype.FP16: 4}
"""What a row's median becomes, so that the fixed code suits it."""


class ExactCoder:
    """For rows of `hidden_size` numbers. `centres` `[H]`, uint8, of the direction.

    Its methods may be called from several threads at once.
    """

    def __init__(self, dtype: Dtype, centres: NDArray[np.uint8]) -> None:
        self._item = np.dtype(f"<u{ITEM_BYTES[dtype]}")
        self._centres = centres
        self._code = FixedCode(dtype)
        self._median_at = _MEDIAN_AT[dtype]
        self._primed = zlib.decompressobj(_WINDOW)
        self._primed.decompress(self._code.prefix)

    def encode(self, raw: Payload, num_rows: int) -> bytes | None:
        """The EXACT payload of a RAW one, at least one row; None where it would be no shorter."""
        numbers = np.frombuffer(raw, self._item).reshape(num_rows, -1)
        rotated = numbers << 1 | numbers >> self._top
        planes = self._planes(rotated.astype(self._item, copy=False))
        low, centred = planes[:, :, :-1], planes[:, :, -1] - self._centres
        shifts = _medians(centred) - np.uint8(self._median_at)
        centred -= shifts[:, None]
        kind, stream = self._written(centred)
        num_bytes = 1 + num_rows + low.size + len(stream)
        if num_bytes >= len(raw):
            return None
        return b"".join((bytes((kind,)), shifts.tobytes(), low.tobytes(), stream))

    def decode(self, payload: Payload, num_rows: int) -> memoryview:
        """The RAW payload of an EXACT one. Nothing longer than it is allocated on the way.

        Raises:
            RemoteProtocolError: BAD_FRAME for every byte string that is not so many rows.
        """
        num_channels = self._centres.size
        num_low = num_rows * num_channels * (self._item.itemsize - 1)
        low_end = 1 + num_rows + num_low
        if len(payload) < low_end:
            _refuse(f"expected more than {low_end} bytes of {num_rows} EXACT rows", len(payload))
        data = np.frombuffer(payload, np.uint8)
        stream = memoryview(payload)[low_end:]
        high = self._read(data[0], stream, num_rows * num_channels).reshape(num_rows, -1)
        rotated = np.empty((num_rows, num_channels), self._item)
        planes = self._planes(rotated)
        planes[:, :, :-1] = data[1 + num_rows : low_end].reshape(num_rows, num_channels, -1)
        np.add(high, self._centres, out=planes[:, :, -1])
        planes[:, :, -1] += data[1 : 1 + num_rows, None]
        numbers = rotated >> 1 | rotated << self._top
        return numbers.astype(self._item, copy=False).reshape(-1).view(np.uint8).data

    @property
    def _top(self) -> int:
        """The place of a number's highest bit."""
        return 8 * self._item.itemsize - 1

    def _planes(self, numbers: NDArray[Any]) -> NDArray[np.uint8]:
        """Their bytes, the lowest first, as a view `[T, H, item bytes]`."""
        return numbers.view(np.uint8).reshape(*numbers.shape, self._item.itemsize)

    def _written(self, values: NDArray[np.uint8]) -> tuple[int, bytes]:
        if values.size <= _MOST_FIXED_VALUES:
            return _FIXED, self._code.write(values)
        writer = zlib.compressobj(1, zlib.DEFLATED, _WINDOW, 8, zlib.Z_HUFFMAN_ONLY)
        return _OWN, writer.compress(values.tobytes()) + writer.flush()

    def _read(self, kind: int, stream: memoryview, num_values: int) -> NDArray[np.uint8]:
        """Exactly so many values; behind the stream may stand zeros, which pad a frame."""
        if kind not in (_FIXED, _OWN):
            _refuse("expected a kind of 0 or 1", int(kind))
        reader = self._primed.copy() if kind == _FIXED else zlib.decompressobj(_WINDOW)
        try:
            values = reader.decompress(stream, num_values)
            # The end of the block may be unread when all values are there.
            num_more = len(reader.decompress(reader.unconsumed_tail, 1))
        except zlib.error as error:
            reason = f"expected a DEFLATE stream, got none ({error})"
            raise RemoteProtocolError(FaultCode.BAD_FRAME, reason) from error
        if len(values) != num_values or num_more or not reader.eof:
            _refuse(f"expected a stream of exactly {num_values} values", len(values) + num_more)
        if reader.unused_data.strip(b"\0"):
            _refuse("expected zeros behind the stream, other bytes", len(reader.unused_data))
        return np.frombuffer(values, np.uint8)


def _medians(centred: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """About each row's, `[T]`: any value is right, the middle one is cheap to code."""
    sample = centred[:, :: max(1, centred.shape[1] // _MOST_SAMPLED)]
    middle = sample.shape[1] // 2
    return np.partition(sample, middle, axis=1)[:, middle]


def _refuse(expected: str, got: int) -> NoReturn:
    raise RemoteProtocolError(FaultCode.BAD_FRAME, f"{expected}, got {got}")

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

from wire.coding.fixed_code import fixed_code
from wire.errors import FaultCode, RemoteProtocolError
from wire.limits import ITEM_BYTES
from wire.messages import Dtype, Payload

_FIXED: Final = 0
_OWN: Final = 1
"""The first byte: in which code the high bytes are, the fixed one or one that the stream brings."""

_MOST_FIXED_VALUES: Final = 1 << 15
"""More values pay for a code of their own, some 60 bytes: it takes half as long again, and saves
0.1 % of RAW, without centres up to 0.6 %."""

_MOST_SAMPLED: Final = 256
"""Channels that a row's median is taken of, or up to twice as many."""

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
        # Arrays: numpy takes longer to make one of a number than to shift a short row.
        self._one = np.array(1, self._item)
        self._top = np.array(8 * self._item.itemsize - 1, self._item)
        self._centres = centres
        self._sampled = slice(None, None, max(1, centres.size // _MOST_SAMPLED))
        self._code = fixed_code(dtype)
        self._median_at = np.array(_MEDIAN_AT[dtype], np.uint8)
        self._primed = zlib.decompressobj(_WINDOW)
        self._primed.decompress(self._code.prefix)

    def encode(self, raw: Payload, num_rows: int) -> bytes | None:
        """The EXACT payload of a RAW one, at least one row; None where it would be no shorter."""
        numbers = np.frombuffer(raw, self._item)
        rotated = numbers << self._one
        rotated |= numbers >> self._top
        low, high = self._planes(rotated.astype(self._item, copy=False))
        centred = high.reshape(num_rows, -1) - self._centres
        shifts = _medians(centred[:, self._sampled]) - self._median_at
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
        num_numbers = num_rows * self._centres.size
        low_end = 1 + num_rows + num_numbers * (self._item.itemsize - 1)
        if len(payload) < low_end:
            _refuse(f"expected more than {low_end} bytes of {num_rows} EXACT rows", len(payload))
        data = np.frombuffer(payload, np.uint8)
        values = self._read(payload[0], memoryview(payload)[low_end:], num_numbers)
        rotated = np.empty(num_numbers, self._item)
        low, high = self._planes(rotated)
        low[:] = data[1 + num_rows : low_end].reshape(low.shape)
        offsets = data[1 : 1 + num_rows, None] + self._centres
        np.add(values, offsets.reshape(-1), out=high)
        numbers: NDArray[Any] = rotated >> self._one
        rotated <<= self._top
        numbers |= rotated
        return numbers.astype(self._item, copy=False).view(np.uint8).data

    def _planes(self, numbers: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Views of their lower bytes `[T * H, item bytes - 1]` and of the highest `[T * H]`."""
        planes = numbers.view(np.uint8).reshape(-1, self._item.itemsize)
        return planes[:, :-1], planes[:, -1]

    def _written(self, values: NDArray[np.uint8]) -> tuple[int, bytes]:
        if values.size <= _MOST_FIXED_VALUES:
            return _FIXED, self._code.write(values)
        writer = zlib.compressobj(1, zlib.DEFLATED, _WINDOW, 8, zlib.Z_HUFFMAN_ONLY)
        return _OWN, writer.compress(values.data) + writer.flush()

    def _read(self, kind: int, stream: memoryview, num_values: int) -> NDArray[np.uint8]:
        """Exactly so many values; behind the stream may stand zeros, which pad a frame."""
        if kind not in (_FIXED, _OWN):
            _refuse("expected a kind of 0 or 1", kind)
        reader = self._primed.copy() if kind == _FIXED else zlib.decompressobj(_WINDOW)
        try:
            # With room for one more the end of the block is read as well.
            values = reader.decompress(stream, num_values + 1)
        except zlib.error as error:
            reason = f"expected a DEFLATE stream, got none ({error})"
            raise RemoteProtocolError(FaultCode.BAD_FRAME, reason) from error
        if len(values) != num_values or not reader.eof:
            _refuse(f"expected a stream of exactly {num_values} values", len(values))
        if reader.unused_data.strip(b"\0"):
            _refuse("expected zeros behind the stream, other bytes", len(reader.unused_data))
        return np.frombuffer(values, np.uint8)


def _medians(sample: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """About each row's, `[T]`: any value is right, the middle one is cheap to code."""
    middle = sample.shape[1] // 2
    # As wider numbers numpy partitions them with vector instructions.
    wide = sample.astype(np.uint32)
    wide.partition(middle)
    return wide[:, middle].astype(np.uint8)


def _refuse(expected: str, got: int) -> NoReturn:
    raise RemoteProtocolError(FaultCode.BAD_FRAME, f"{expected}, got {got}")

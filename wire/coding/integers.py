"""Lossy payloads: rows as small integers with a scale for each row or block.

The layout, for `T` rows of `H` numbers, `K` channels kept as they are and blocks of `B` numbers:

    kept      T x K numbers in the wire's dtype
    scales    T x ceil(H / B) bfloat16 numbers
    integers  T rows of ceil(H / 4) groups: four bytes (8 bits), or three that hold four numbers of
              6 bits, lowest bits first

A number is its integer times its block's scale. The place of a kept channel holds 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import Dtype, Payload
from wire.numbers import NUMPY_DTYPES, RowRangeError, Rows, pack_rows, unpack_rows

Float32 = NDArray[np.float32]

_SCALE_BYTES: Final = 2
_GROUP: Final = 4
"""Rows are filled up to so many integers, which take whole bytes at 6 bits too."""


@dataclass(frozen=True, slots=True)
class IntegerFormat:
    """How many bits an integer has, and how many of them share a scale."""

    bits: int
    """8 or 6."""
    block: int | None
    """None: one scale for the whole row."""

    @property
    def largest(self) -> int:
        """The largest integer a sender uses, either way."""
        return (1 << self.bits - 1) - 1

    def num_blocks(self, hidden_size: int) -> int:
        """Scales in a row; the last block may be shorter."""
        return 1 if self.block is None else -(-hidden_size // self.block)

    def row_bytes(self, hidden_size: int, dtype: Dtype, num_kept: int) -> int:
        """What one row takes."""
        kept_bytes = num_kept * NUMPY_DTYPES[dtype].itemsize
        integer_bytes = -(-hidden_size // _GROUP) * _GROUP * self.bits // 8
        return kept_bytes + _SCALE_BYTES * self.num_blocks(hidden_size) + integer_bytes

    def largest_scale(self, dtype: Dtype) -> int:
        """The bits of the largest scale with which no integer leaves the dtype's range."""
        finite = float(ml_dtypes.finfo(NUMPY_DTYPES[dtype]).max) / (1 << self.bits - 1)
        return int(np.float32(finite).view(np.uint32)) >> 16


INT8: Final = IntegerFormat(bits=8, block=None)
"""8 bits and a scale for each row: 8.004 bits a number at 4,096 numbers a row."""
INT6: Final = IntegerFormat(bits=6, block=32)
"""6 bits and a scale for 32 numbers: 6.5 bits a number."""


class IntegerCoder:
    """RAW payloads of one direction to integers and back. May be called from several threads."""

    def __init__(
        self, form: IntegerFormat, dtype: Dtype, hidden_size: int, kept: Sequence[int] = ()
    ) -> None:
        self._form = form
        self._dtype = dtype
        self._hidden_size = hidden_size
        self._kept = tuple(kept)

    def encode(self, raw: Payload, num_rows: int) -> bytes | None:
        """The payload of a RAW one, at least one row; None where it would be no shorter.

        Raises:
            RemoteProtocolError: the RAW payload is not so many finite rows.
        """
        row_bytes = self._form.row_bytes(self._hidden_size, self._dtype, len(self._kept))
        if num_rows * row_bytes >= len(raw):
            return None
        rows = unpack_rows(raw, num_rows, self._hidden_size, self._dtype)
        return pack_integers(rows, self._form, self._dtype, self._kept)

    def decode(self, payload: Payload, num_rows: int) -> memoryview:
        """A RAW payload of nearly the rows that were sent.

        Raises:
            RemoteProtocolError: as `unpack_integers`.
        """
        shape = (num_rows, self._hidden_size)
        rows = unpack_integers(payload, *shape, self._form, self._dtype, self._kept)
        return pack_rows(rows, self._dtype)


def pack_integers(rows: Rows, form: IntegerFormat, dtype: Dtype, kept: Sequence[int] = ()) -> bytes:
    """The payload of rows `[T, H]`; numbers within 2 % of the largest of `dtype` are cut to that.

    Args:
        rows: In any number format.
        form: The integers.
        dtype: The wire's, for the range and for kept channels.
        kept: Channels that are sent in `dtype`, each in `[0, H)` and once.

    Raises:
        RowRangeError: a number is infinite, NaN, or beyond the dtype's range.
    """
    if rows.ndim != 2:
        raise ValueError(f"expected rows [T, H], got shape {rows.shape}")
    wide = np.array(rows, dtype=np.float32)
    columns = list(kept)
    exact = pack_rows(wide[:, columns], dtype)
    wide[:, columns] = 0
    blocks = _blocks(wide, form)
    largest = np.abs(blocks).max(axis=-1, initial=0)
    scales = _scales(largest, form, dtype)
    steps = np.where(scales > 0, scales, np.float32(1))
    integers = np.rint(blocks / steps[..., None])
    integers = integers.clip(-form.largest, form.largest).astype(np.int8)
    width = blocks.shape[1] * blocks.shape[2]
    integers = _with_width(integers.reshape(len(rows), width), _filled(rows.shape[1]))
    packed_scales = (scales.view(np.uint32) >> 16).astype("<u2")
    packed = integers.view(np.uint8) if form.bits == 8 else _six_bits(integers)
    return b"".join((exact, packed_scales.tobytes(), packed.tobytes()))


def unpack_integers(
    payload: Payload,
    num_rows: int,
    hidden_size: int,
    form: IntegerFormat,
    dtype: Dtype,
    kept: Sequence[int] = (),
) -> Float32:
    """The rows `[num_rows, hidden_size]` of a payload, all finite and within the dtype's range.

    They take at most eight times the payload's bytes.

    Raises:
        RemoteProtocolError: BAD_FRAME when the payload is not that many rows, a scale is negative
            or too large, or a kept number infinite or NaN.
    """
    expected_bytes = num_rows * form.row_bytes(hidden_size, dtype, len(kept))
    if len(payload) != expected_bytes:
        reason = f"expected {expected_bytes} payload bytes, got {len(payload)}"
        raise RemoteProtocolError(FaultCode.BAD_FRAME, reason)
    kept_bytes = num_rows * len(kept) * NUMPY_DTYPES[dtype].itemsize
    num_blocks = form.num_blocks(hidden_size)
    scales = np.frombuffer(payload, "<u2", num_rows * num_blocks, kept_bytes)
    if scales.size and int(scales.max()) > form.largest_scale(dtype):
        reason = f"expected scales of {num_rows} rows within {dtype.name}, got a larger or negative"
        raise RemoteProtocolError(FaultCode.BAD_FRAME, reason)
    packed = np.frombuffer(payload, np.uint8, offset=kept_bytes + scales.nbytes)
    packed = packed.reshape(num_rows, _filled(hidden_size) * form.bits // 8)
    integers = packed.view(np.int8) if form.bits == 8 else _from_six_bits(packed)
    steps = (scales.astype(np.uint32) << 16).view(np.float32).reshape(num_rows, num_blocks)
    blocks = _blocks(integers[:, :hidden_size], form) * steps[..., None]
    width = blocks.shape[1] * blocks.shape[2]
    rows = np.ascontiguousarray(blocks.reshape(num_rows, width)[:, :hidden_size])
    if kept:
        exact = unpack_rows(memoryview(payload)[:kept_bytes], num_rows, len(kept), dtype)
        rows[:, list(kept)] = exact
    return rows


def _filled(hidden_size: int) -> int:
    return -(-hidden_size // _GROUP) * _GROUP


def _blocks(rows: NDArray[Any], form: IntegerFormat) -> NDArray[Any]:
    """Rows `[T, H]` as `[T, blocks, B]`, the last block filled with zeros."""
    num_blocks = form.num_blocks(rows.shape[1])
    size = rows.shape[1] if form.block is None else form.block
    return _with_width(rows, num_blocks * size).reshape(len(rows), num_blocks, size)


def _with_width(rows: NDArray[Any], width: int) -> NDArray[Any]:
    """Rows cut to a width, or filled with zeros up to it."""
    if rows.shape[1] >= width:
        return np.ascontiguousarray(rows[:, :width])
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])))


def _scales(largest: Float32, form: IntegerFormat, dtype: Dtype) -> Float32:
    """For each block's largest magnitude the next bfloat16 number from which it can be reached."""
    finite = float(ml_dtypes.finfo(NUMPY_DTYPES[dtype]).max)
    if largest.size and not float(largest.max()) <= finite:
        raise RowRangeError(
            f"expected numbers within {finite:.5g} either way in {dtype.name} rows, "
            f"got a larger one, an infinity or NaN"
        )
    exact = (largest / np.float32(form.largest)).view(np.uint32)
    rounded_up = (exact + np.uint32(0xFFFF)) >> np.uint32(16)
    bits = np.minimum(rounded_up, form.largest_scale(dtype)) << np.uint32(16)
    scales: Float32 = bits.astype(np.uint32).view(np.float32)
    return scales


def _six_bits(integers: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Integers `[T, 4 G]` in `[-32, 32)` as `[T, 3 G]` bytes."""
    bits = integers.view(np.uint8) & 63
    low, second, third, high = (bits[:, place::_GROUP] for place in range(_GROUP))
    packed = (low | second << 6, second >> 2 | third << 4, third >> 4 | high << 2)
    return np.stack(packed, axis=-1).reshape(len(bits), 3 * low.shape[1])


def _from_six_bits(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Bytes `[T, 3 G]` as integers `[T, 4 G]`."""
    first, middle, last = (packed[:, place::3] for place in range(3))
    fields = (first, first >> 6 | middle << 2, middle >> 4 | last << 4, last >> 2)
    # Shifted up, the sixth bit is the sign, which an arithmetic shift down then spreads.
    wide = (np.stack(fields, axis=-1) << 2).view(np.int8) >> 2
    return wide.reshape(len(packed), _GROUP * first.shape[1])

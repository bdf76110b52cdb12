"""Hidden states to payload bytes and back (docs/wire-protocol.md, rules W7 to W9)."""

import sys
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import Codec, Dtype, Payload, Reply

Rows = NDArray[Any]
"""Hidden states `[T, H]`."""

NUMPY_DTYPES: Final[dict[Dtype, np.dtype[Any]]] = {
    Dtype.FP32: np.dtype(np.float32),
    Dtype.FP16: np.dtype(np.float16),
    Dtype.BF16: np.dtype(ml_dtypes.bfloat16),
}

SUPPORTED_CODECS: Final = 1 << Codec.RAW
"""The codecs of this package that carry rows both ways, as Hello and Welcome have them."""

TAPPED_CODECS: Final = SUPPORTED_CODECS | 1 << Codec.TAPPED
"""And with the one of Replies to sessions with taps."""

# The bits of +infinity; every NaN and infinity has at least these exponent bits set.
_INFINITY_BITS: Final = {Dtype.FP32: 0x7F80_0000, Dtype.FP16: 0x7C00, Dtype.BF16: 0x7F80}
_SIGN_BIT: Final = {Dtype.FP32: 0x8000_0000, Dtype.FP16: 0x8000, Dtype.BF16: 0x8000}
_UNSIGNED: Final = {Dtype.FP32: np.uint32, Dtype.FP16: np.uint16, Dtype.BF16: np.uint16}
_SIGNED: Final = {Dtype.FP32: np.int32, Dtype.FP16: np.int16, Dtype.BF16: np.int16}


class RowRangeError(ValueError):
    """Rows that the number format cannot hold; the message names it, and is safe to show."""


def pack_rows(rows: Rows, dtype: Dtype) -> memoryview:
    """The RAW payload of rows `[T, H]`; a view of them when they are contiguous and in `dtype`.

    Rows of another number format are rounded to `dtype` first, which is exact only towards a
    wider one. The rows must not change while the payload is in use.

    Raises:
        RowRangeError: a number is infinite or NaN, if only after rounding.
    """
    if rows.ndim != 2:
        raise ValueError(f"expected rows [T, H], got shape {rows.shape}")
    packed = np.ascontiguousarray(convert_rows(rows, dtype))
    return _little_endian(packed.view(_UNSIGNED[dtype])).reshape(-1).view(np.uint8).data


def convert_rows(rows: Rows, dtype: Dtype) -> Rows:
    """Rows in another number format, each number the nearest one; the same array if they have it.

    Raises:
        RowRangeError: a number is infinite or NaN, if only after rounding.
    """
    with np.errstate(over="ignore"):
        converted = rows.astype(NUMPY_DTYPES[dtype], copy=False)
    if not _all_finite(np.ascontiguousarray(converted).view(_UNSIGNED[dtype]), dtype):
        largest = float(ml_dtypes.finfo(NUMPY_DTYPES[dtype]).max)
        raise RowRangeError(
            f"expected numbers within {largest:.5g} either way in {dtype.name} rows, "
            f"got a larger one, an infinity or NaN"
        )
    return converted


def unpack_rows(payload: Payload, num_rows: int, hidden_size: int, dtype: Dtype) -> Rows:
    """The rows `[num_rows, hidden_size]` of a RAW payload, as a view of it; read-only for bytes.

    Raises:
        RemoteProtocolError: SHAPE_MISMATCH when the payload is not that many rows, BAD_FRAME when
            a number is infinite or NaN.
    """
    expected_bytes = num_rows * hidden_size * NUMPY_DTYPES[dtype].itemsize
    if len(payload) != expected_bytes:
        reason = f"expected {expected_bytes} payload bytes, got {len(payload)}"
        raise RemoteProtocolError(FaultCode.SHAPE_MISMATCH, reason)
    bits = _little_endian(np.frombuffer(payload, dtype=_UNSIGNED[dtype]))
    if not _all_finite(bits, dtype):
        reason = f"expected finite numbers in {num_rows} rows, got an infinity or NaN"
        raise RemoteProtocolError(FaultCode.BAD_FRAME, reason)
    return bits.view(NUMPY_DTYPES[dtype]).reshape(num_rows, hidden_size)


def unpack_reply(reply: Reply, hidden_size: int) -> Rows:
    """A Reply's rows `[num_rows, 1 + taps, hidden_size]`: deep rows first, then taps (rule W38).

    Raises:
        RemoteProtocolError: as `unpack_rows`.
    """
    row_bytes = hidden_size * NUMPY_DTYPES[reply.dtype].itemsize
    if not reply.num_rows:
        return np.empty((0, 1, hidden_size), NUMPY_DTYPES[reply.dtype])
    share = max(1, len(reply.payload) // (reply.num_rows * row_bytes))
    rows = unpack_rows(reply.payload, reply.num_rows * share, hidden_size, reply.dtype)
    return rows.reshape(reply.num_rows, share, hidden_size)


def _all_finite(bits: NDArray[Any], dtype: Dtype) -> bool:
    """Whether no number is infinite or NaN, by two integer maxima without a temporary array.

    Read as a signed integer, a positive number orders by its bits and every negative one is below
    zero; read as unsigned, the negative ones come last. So each maximum finds the largest
    magnitude of one sign.
    """
    if not bits.size:
        return True
    infinity, sign = _INFINITY_BITS[dtype], _SIGN_BIT[dtype]
    largest_positive = int(bits.view(_SIGNED[dtype]).max())
    largest = int(bits.max())
    return largest_positive < infinity and largest < sign + infinity


def _little_endian(bits: NDArray[Any]) -> NDArray[Any]:
    """The same numbers in the wire's byte order, or the host's: the exchange is symmetric."""
    return bits if sys.byteorder == "little" else bits.byteswap()

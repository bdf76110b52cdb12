"""Rows to payloads and back: exact for equal formats, without copies, and always finite."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wire.errors import FaultCode, RemoteProtocolError
from wire.limits import ITEM_BYTES, MAX_TAPS
from wire.messages import Codec, Dtype, Reply, SessionId
from wire.numbers import (
    NUMPY_DTYPES,
    RowRangeError,
    Rows,
    pack_rows,
    unpack_reply,
    unpack_rows,
)

shapes = st.tuples(st.integers(1, 7), st.integers(1, 33))
dtypes = st.sampled_from(Dtype)
UNSIGNED = {4: np.uint32, 2: np.uint16}


def finite_rows(seed: int, shape: tuple[int, int], dtype: Dtype) -> Rows:
    """Rows of any finite bits: subnormals, both zeros and the largest numbers too."""
    numpy_dtype = NUMPY_DTYPES[dtype]
    raw = np.random.default_rng(seed).bytes(shape[0] * shape[1] * numpy_dtype.itemsize)
    rows = np.frombuffer(raw, dtype=numpy_dtype).reshape(shape)
    with np.errstate(invalid="ignore"):  # ml_dtypes' isfinite meets NaN
        return np.where(np.isfinite(rows), rows, numpy_dtype.type(-0.0))


def bits(rows: Rows) -> NDArray[np.unsignedinteger]:
    return rows.view(UNSIGNED[rows.dtype.itemsize])


@given(seed=st.integers(0, 2**32), shape=shapes, dtype=dtypes)
def test_rows_come_back_bit_for_bit(seed: int, shape: tuple[int, int], dtype: Dtype) -> None:  # W8
    rows = finite_rows(seed, shape, dtype)
    payload = pack_rows(rows, dtype)
    assert len(payload) == payload.nbytes == rows.nbytes
    again = unpack_rows(bytes(payload), *shape, dtype)
    assert again.dtype == rows.dtype
    assert np.array_equal(bits(again), bits(rows))


@given(dtype=dtypes, shape=shapes)
def test_neither_way_copies_rows_that_fit(dtype: Dtype, shape: tuple[int, int]) -> None:
    rows = finite_rows(1, shape, dtype)
    payload = pack_rows(rows, dtype)
    assert np.shares_memory(unpack_rows(payload, *shape, dtype), rows)


@given(seed=st.integers(0, 2**32), shape=shapes, dtype=dtypes)
def test_rows_need_not_be_contiguous(seed: int, shape: tuple[int, int], dtype: Dtype) -> None:
    rows = finite_rows(seed, (shape[1], shape[0]), dtype).T
    again = unpack_rows(pack_rows(rows, dtype), *shape, dtype)
    assert np.array_equal(bits(again), bits(np.ascontiguousarray(rows)))


def test_the_wire_is_little_endian() -> None:  # W1, W8
    rows = np.array([[1.0, -2.0]], dtype=np.float32)
    assert bytes(pack_rows(rows, Dtype.FP32)) == bytes.fromhex("0000803f 000000c0")
    assert bytes(pack_rows(rows, Dtype.BF16)) == bytes.fromhex("803f 00c0")
    assert bytes(pack_rows(rows, Dtype.FP16)) == bytes.fromhex("003c 00c0")


def test_a_wider_format_is_exact_and_a_narrower_one_rounds_to_the_nearest() -> None:  # W8
    rows = np.array([[1.0, 1.0 + 2.0**-9]], dtype=np.float32)
    narrow = unpack_rows(pack_rows(rows, Dtype.BF16), 1, 2, Dtype.BF16)
    assert narrow.astype(np.float32).tolist() == [[1.0, 1.0]]
    wide = unpack_rows(pack_rows(narrow, Dtype.FP32), 1, 2, Dtype.FP32)
    assert wide.tolist() == [[1.0, 1.0]]


@given(
    dtype=dtypes,
    shape=shapes,
    place=st.floats(0, 1, exclude_max=True),
    number=st.sampled_from([float("inf"), float("-inf"), float("nan")]),
    is_negative_nan=st.booleans(),
)
def test_one_number_that_is_not_finite_is_refused(  # W9
    dtype: Dtype, shape: tuple[int, int], place: float, number: float, is_negative_nan: bool
) -> None:
    rows = finite_rows(2, shape, dtype).copy()
    rows.reshape(-1)[int(place * rows.size)] = -number if is_negative_nan else number
    with pytest.raises(RemoteProtocolError) as refused:
        unpack_rows(rows.tobytes(), *shape, dtype)
    assert refused.value.code is FaultCode.BAD_FRAME
    with pytest.raises(RowRangeError, match=f"in {dtype.name} rows"):
        pack_rows(rows, dtype)


@pytest.mark.parametrize("dtype", Dtype)
def test_the_largest_numbers_of_both_signs_are_finite(dtype: Dtype) -> None:  # W9
    largest = ml_dtypes.finfo(NUMPY_DTYPES[dtype]).max
    rows = np.array([[largest, -largest]], dtype=NUMPY_DTYPES[dtype])
    assert np.array_equal(unpack_rows(pack_rows(rows, dtype), 1, 2, dtype), rows)


@given(dtype=dtypes, shape=shapes, num_bytes=st.integers(0, 500))
def test_a_payload_of_another_length_is_refused(  # W7
    dtype: Dtype, shape: tuple[int, int], num_bytes: int
) -> None:
    expected = shape[0] * shape[1] * ITEM_BYTES[dtype]
    if num_bytes == expected:
        num_bytes += 1
    with pytest.raises(RemoteProtocolError) as refused:
        unpack_rows(bytes(num_bytes), *shape, dtype)
    assert refused.value.code is FaultCode.SHAPE_MISMATCH


@pytest.mark.parametrize("dtype", Dtype)
def test_no_rows_are_an_empty_payload(dtype: Dtype) -> None:
    payload = pack_rows(np.empty((0, 8), dtype=NUMPY_DTYPES[dtype]), dtype)
    assert len(payload) == 0
    assert unpack_rows(payload, 0, 8, dtype).shape == (0, 8)


def test_rows_of_one_dimension_are_not_packed() -> None:
    with pytest.raises(ValueError, match="expected rows"):
        pack_rows(np.zeros(4, dtype=np.float32), Dtype.FP32)


@given(num_rows=st.integers(0, 4), num_taps=st.integers(0, MAX_TAPS))
def test_a_reply_brings_its_taps_behind_each_row(num_rows: int, num_taps: int) -> None:  # W38
    rows = np.arange(num_rows * (1 + num_taps) * 3, dtype=np.float32)
    payload = pack_rows(rows.reshape(-1, 3), Dtype.FP32)
    codec = Codec.TAPPED if num_taps else Codec.RAW
    reply = Reply(SessionId(1), 0, 0, num_rows, Dtype.FP32, codec, num_rows, 0.0, 0.0, 1, payload)
    unpacked = unpack_reply(reply, 3)
    if num_rows:
        assert unpacked.shape == (num_rows, 1 + num_taps, 3)
    np.testing.assert_array_equal(unpacked.reshape(-1), rows)


def test_a_reply_of_another_length_is_refused() -> None:  # W7
    for num_bytes in (8, 13):
        place = (SessionId(1), 0, 0, 1, Dtype.FP32, Codec.RAW)
        reply = Reply(*place, 1, 0.0, 0.0, 1, bytes(num_bytes))
        with pytest.raises(RemoteProtocolError):
            unpack_reply(reply, 3)

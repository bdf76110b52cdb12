"""Rows as integers with scales: how far off they come back, and that any bytes are harmless."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wire.coding.integers import INT6, INT8, IntegerFormat, pack_integers, unpack_integers
from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import Dtype
from wire.numbers import NUMPY_DTYPES, RowRangeError

FORMATS = st.sampled_from([INT8, INT6])
DTYPES = st.sampled_from(list(Dtype))
SIZES = st.integers(1, 80)
_SMALLEST_SCALE = 2.0**-133
"""The smallest bfloat16 number above 0."""


@st.composite
def row_arrays(draw: st.DrawFn, most: float = 64_000.0) -> np.ndarray:
    """Rows `[T, H]` of any magnitude up to `most`, some with outlier channels."""
    num_rows, hidden_size = draw(st.integers(0, 4)), draw(SIZES)
    seed, exponent = draw(st.integers(0, 1 << 16)), draw(st.integers(-140, 128))
    chance = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        rows = chance.standard_normal((num_rows, hidden_size)) * 2.0**exponent
        rows[:, chance.integers(hidden_size)] *= draw(st.sampled_from([0, 1, 50]))
    return rows.clip(-most, most).astype(np.float32)


def channels(hidden_size: int) -> st.SearchStrategy[tuple[int, ...]]:
    chosen = st.lists(st.integers(0, hidden_size - 1), max_size=6, unique=True)
    return chosen.map(tuple)


@given(data=st.data(), rows=row_arrays(), form=FORMATS, dtype=DTYPES)
def test_a_number_is_off_by_half_a_step_and_kept_channels_by_nothing(
    data: st.DataObject, rows: np.ndarray, form: IntegerFormat, dtype: Dtype
) -> None:
    num_rows, hidden_size = rows.shape
    kept = data.draw(channels(hidden_size))
    payload = pack_integers(rows, form, dtype, kept)
    assert len(payload) == num_rows * form.row_bytes(hidden_size, dtype, len(kept))
    came = unpack_integers(payload, num_rows, hidden_size, form, dtype, kept)
    assert (came.dtype, came.shape) == (np.float32, rows.shape)
    columns = list(kept)
    assert np.array_equal(came[:, columns], rows[:, columns].astype(NUMPY_DTYPES[dtype]))
    rows[:, columns] = came[:, columns] = 0
    size = form.block or hidden_size
    for start in range(0, hidden_size, size):
        sent, back = (array[:, start : start + size].astype(np.float64) for array in (rows, came))
        largest = np.abs(sent).max(axis=1, keepdims=True, initial=0)
        # A scale has 8 bits and is rounded up; the smallest one is bfloat16's.
        step = largest / form.largest * (1 + 2**-7) + _SMALLEST_SCALE
        assert (np.abs(back - sent) <= step / 2 * (1 + 1e-6)).all()


@given(rows=row_arrays(most=3.3e38), form=FORMATS, dtype=st.sampled_from([Dtype.BF16, Dtype.FP32]))
def test_the_largest_numbers_come_back_finite(
    rows: np.ndarray, form: IntegerFormat, dtype: Dtype
) -> None:
    came = unpack_integers(pack_integers(rows, form, dtype), *rows.shape, form, dtype)
    assert np.isfinite(came.astype(NUMPY_DTYPES[dtype])).all()
    tolerance = np.abs(rows).max(initial=0) / 30 + _SMALLEST_SCALE
    assert (np.abs(came - rows.astype(np.float64)) <= tolerance).all()


@given(data=st.data(), form=FORMATS, dtype=DTYPES, num_rows=st.integers(0, 3), size=SIZES)
def test_any_bytes_of_the_right_length_become_finite_rows_or_are_refused(
    data: st.DataObject, form: IntegerFormat, dtype: Dtype, num_rows: int, size: int
) -> None:
    kept = data.draw(channels(size))
    length = num_rows * form.row_bytes(size, dtype, len(kept))
    payload = data.draw(st.binary(min_size=length, max_size=length))
    try:
        rows = unpack_integers(payload, num_rows, size, form, dtype, kept)
    except RemoteProtocolError:
        return
    assert rows.shape == (num_rows, size)
    assert np.isfinite(rows.astype(NUMPY_DTYPES[dtype])).all()
    assert rows.nbytes <= 8 * max(len(payload), 1)


@given(payload=st.binary(max_size=300), form=FORMATS, num_rows=st.integers(0, 4), size=SIZES)
def test_another_length_is_refused(
    payload: bytes, form: IntegerFormat, num_rows: int, size: int
) -> None:
    assume(len(payload) != num_rows * form.row_bytes(size, Dtype.BF16, 0))
    with pytest.raises(RemoteProtocolError) as caught:
        unpack_integers(payload, num_rows, size, form, Dtype.BF16)
    assert caught.value.code is FaultCode.BAD_FRAME


@given(
    form=FORMATS,
    dtype=DTYPES,
    value=st.sampled_from([np.inf, -np.inf, np.nan]),
    kept=st.sampled_from([(), (1,), (0,)]),
)
def test_what_is_not_finite_is_not_sent(
    form: IntegerFormat, dtype: Dtype, value: float, kept: tuple[int, ...]
) -> None:
    rows = np.ones((2, 40), np.float32)
    rows[1, 1] = value
    with pytest.raises(RowRangeError):
        pack_integers(rows, form, dtype, kept)


def test_a_number_beyond_the_format_on_the_wire_is_not_sent() -> None:
    rows = np.full((1, 8), 70_000.0, np.float32)
    pack_integers(rows, INT8, Dtype.BF16)
    with pytest.raises(RowRangeError, match="FP16"):
        pack_integers(rows, INT8, Dtype.FP16)


def test_the_layout_is_that_of_the_document() -> None:
    rows = np.array([[1.0, -127.0, 3.0, 127.0, 64.0]], np.float32)
    payload = bytes(pack_integers(rows, INT8, Dtype.BF16, (2,)))
    assert payload[:2] == rows[:, 2].astype(ml_dtypes.bfloat16).tobytes()
    assert payload[2:4] == np.array(1, ml_dtypes.bfloat16).tobytes()
    assert list(np.frombuffer(payload[4:], np.int8)) == [1, -127, 0, 127, 64, 0, 0, 0]
    six = bytes(pack_integers(np.array([[1.0, -31.0, 3.0, 31.0]], np.float32), INT6, Dtype.BF16))
    assert six[:2] == np.array(1, ml_dtypes.bfloat16).tobytes()
    assert int.from_bytes(six[2:], "little") == 1 | 33 << 6 | 3 << 12 | 31 << 18


@pytest.mark.parametrize(("form", "least", "most"), [(INT8, 8, 8.05), (INT6, 6.5, 6.5)])
def test_bits_a_number(form: IntegerFormat, least: float, most: float) -> None:
    for hidden_size in (576, 4096):
        assert least <= 8 * form.row_bytes(hidden_size, Dtype.BF16, 0) / hidden_size <= most

"""EXACT rows (W40, W41): every bit comes back; any byte string is decoded or refused."""

import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.coding.exact import ExactCoder
from wire.coding.fixed_code import END, code_lengths, fixed_code
from wire.coding.tables import Centres, centres_of, no_centres, read_centres
from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import Dtype

T = TypeVar("T")

NUMPY = {
    Dtype.BF16: np.dtype(ml_dtypes.bfloat16),
    Dtype.FP16: np.dtype(np.float16),
    Dtype.FP32: np.dtype(np.float32),
}
FORMATS = tuple(NUMPY)

formats = st.sampled_from(FORMATS)
shapes = st.tuples(st.integers(1, 5), st.sampled_from((1, 2, 7, 64, 300)))
seeds = st.integers(0, 2**32 - 1)


def coder(dtype: Dtype, num_channels: int, seed: int = 0) -> ExactCoder:
    centres = np.random.default_rng(seed).integers(0, 4, num_channels, np.uint8)
    return ExactCoder(dtype, centres)


def normal_rows(dtype: Dtype, shape: tuple[int, int], seed: int = 0) -> bytes:
    return np.random.default_rng(seed).standard_normal(shape).astype(NUMPY[dtype]).tobytes()


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("num_channels", [256, 65_536])
def test_every_pattern_of_sixteen_bits_comes_back(dtype, num_channels):
    # Padded with ordinary numbers, since patterns that are all alike likely are no shorter coded.
    # The rest of a wider number is as good as random: it travels as it is.
    bits = 8 * NUMPY[dtype].itemsize
    tops = np.arange(1 << 16, dtype=np.uint64) << (bits - 16)
    rests = np.random.default_rng(2).integers(0, 1 << (bits - 16), tops.shape, np.uint64)
    patterns = (tops | rests).astype(f"<u{bits // 8}").tobytes()
    num_rows = (1 << 16) // num_channels
    raw = patterns + normal_rows(dtype, (9 * num_rows, num_channels))
    exact = coder(dtype, num_channels)
    coded = exact.encode(raw, 10 * num_rows)
    assert coded is not None
    assert len(coded) < len(raw)
    assert bytes(exact.decode(coded, 10 * num_rows)) == raw


@given(dtype=formats, shape=shapes, seed=seeds, data=st.data())
def test_what_is_coded_is_shorter_and_comes_back(dtype, shape, seed, data):
    kind = data.draw(st.sampled_from(("bits", "normal", "one", "zeros")))
    rng = np.random.default_rng(seed)
    raw = {
        "bits": lambda: rng.bytes(shape[0] * shape[1] * NUMPY[dtype].itemsize),
        "normal": lambda: normal_rows(dtype, shape, seed),
        "one": lambda: rng.bytes(NUMPY[dtype].itemsize) * (shape[0] * shape[1]),
        "zeros": lambda: bytes(shape[0] * shape[1] * NUMPY[dtype].itemsize),
    }[kind]()
    exact = coder(dtype, shape[1], seed)
    coded = exact.encode(raw, shape[0])
    if coded is not None:
        assert len(coded) < len(raw)
        assert bytes(exact.decode(coded, shape[0])) == raw


@pytest.mark.parametrize("dtype", FORMATS)
def test_random_bits_are_left_as_they_are(dtype):
    raw = np.random.default_rng(1).bytes(8 * 512 * NUMPY[dtype].itemsize)
    assert coder(dtype, 512).encode(raw, 8) is None


@pytest.mark.parametrize("shape", [(4, 64), (1, 40_000)])  # the fixed code, and one of its own
@given(data=st.data())
@settings(max_examples=60)
def test_a_changed_or_cut_payload_is_decoded_or_refused(shape, data):
    raw = normal_rows(Dtype.BF16, shape)
    exact = ExactCoder(Dtype.BF16, np.zeros(shape[1], np.uint8))
    coded = bytearray(exact.encode(raw, shape[0]) or b"")
    for _ in range(data.draw(st.integers(0, 3))):
        coded[data.draw(st.integers(0, len(coded) - 1))] = data.draw(st.integers(0, 255))
    changed = bytes(coded[: data.draw(st.integers(0, len(coded)))])
    _decoded_or_refused(exact, changed, 2 * shape[0] * shape[1], shape[0])


@given(payload=st.binary(max_size=400), dtype=formats, shape=shapes)
def test_any_byte_string_is_decoded_or_refused(payload, dtype, shape):
    num_bytes = shape[0] * shape[1] * NUMPY[dtype].itemsize
    _decoded_or_refused(coder(dtype, shape[1]), payload, num_bytes, shape[0])


def _decoded_or_refused(exact: ExactCoder, payload: bytes, num_bytes: int, num_rows: int) -> None:
    raw = _unless_refused(lambda: exact.decode(payload, num_rows))
    assert raw is None or len(raw) == num_bytes


def _unless_refused(call: Callable[[], T]) -> T | None:
    refused = None
    try:
        return call()
    except RemoteProtocolError as error:
        refused = error
    assert refused.code is FaultCode.BAD_FRAME
    return None


def test_a_cut_payload_is_refused():
    exact = coder(Dtype.BF16, 256)
    coded = exact.encode(normal_rows(Dtype.BF16, (3, 256)), 3)
    assert coded is not None
    for num_bytes in range(len(coded)):
        with pytest.raises(RemoteProtocolError):
            exact.decode(coded[:num_bytes], 3)


def test_zeros_behind_the_stream_are_padding_and_other_bytes_are_not():
    exact, raw = coder(Dtype.BF16, 256), normal_rows(Dtype.BF16, (3, 256))
    coded = exact.encode(raw, 3)
    assert coded is not None
    assert bytes(exact.decode(coded + bytes(100), 3)) == raw
    with pytest.raises(RemoteProtocolError, match="expected zeros behind the stream"):
        exact.decode(coded + b"\0\x01", 3)


def test_a_stream_of_more_values_than_rows_hold_is_refused_without_being_unpacked():
    exact = ExactCoder(Dtype.BF16, np.zeros(64, np.uint8))
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = bomb.compress(bytes(50_000_000)) + bomb.flush()
    with pytest.raises(RemoteProtocolError, match="exactly 128 values, got 129"):
        exact.decode(b"\x01" + bytes(2 + 128) + stream, 2)


def test_an_unknown_kind_is_refused():
    with pytest.raises(RemoteProtocolError, match="expected a kind of 0 or 1, got 2"):
        coder(Dtype.BF16, 4).decode(b"\x02" + bytes(50), 1)


@pytest.mark.parametrize("dtype", FORMATS)
def test_the_fixed_code_is_complete_and_zlib_reads_it(dtype):
    lengths = code_lengths(dtype)
    assert sum(2.0**-num_bits for num_bits in lengths) == 1.0
    assert max(lengths) == lengths[END] == 14
    code, values = fixed_code(dtype), np.arange(256, dtype=np.uint8)
    stream = code.prefix + code.write(values)
    assert zlib.decompress(stream, -15) == values.tobytes()


@pytest.mark.parametrize("dtype", FORMATS)
@given(values=st.lists(st.integers(0, 255), min_size=1, max_size=200))
def test_the_fixed_code_writes_any_number_of_values(dtype, values):
    code = fixed_code(dtype)
    stream = code.prefix + code.write(np.array(values, np.uint8))
    assert zlib.decompress(stream, -15) == bytes(values)


@pytest.mark.parametrize("dtype", FORMATS)
@given(num_values=st.integers(1, 5000), seed=seeds, far=st.booleans())
def test_the_fixed_code_writes_long_and_short_codes_one_behind_the_other(
    dtype, num_values, seed, far
):
    rng = np.random.default_rng(seed)
    near = np.round(rng.standard_normal(num_values) * 3).astype(np.int8).view(np.uint8)
    values = rng.integers(0, 256, num_values, np.uint8) if far else near
    code = fixed_code(dtype)
    written = code.write(values)
    reader = zlib.decompressobj(-15)
    assert reader.decompress(code.prefix + written) == values.tobytes()
    assert reader.eof
    lengths = code_lengths(dtype)
    assert len(written) == -(-sum(lengths[value] for value in (*values.tolist(), END)) // 8)


# What the first release that knew EXACT wrote of `told_rows`.
WRITTEN = (
    (
        Dtype.BF16,
        (1, 37),
        "007e004b00155ea92873bc3d8607509b1a65ae2f78c3428d0c57a0216ab5347fc84992135ca7d4f047010000000000"
        "0000f063fdff",
    ),
    (
        Dtype.FP16,
        (2, 24),
        "007776005100a1f0414091e0e1303180d1d0217071c011106160b1000150a1a0f140419091e0313081d0d1202170c1"
        "c01160a611fdb2884cc226119e092f5414262b901de98e34c026619b89cd54142a2afbb9ff3f",
    ),
    (
        Dtype.FP32,
        (1, 21),
        "007e00000001004a00000001001400005e0100a80000280100720000bc01003c00008601000600005001009a00001a"
        "0100640000ae01002e0000780100c200c0d4f04701000000f063fcff",
    ),
)


def told_rows(dtype: Dtype, shape: tuple[int, int]) -> bytes:
    """Numbers of both signs and several scales, a zero, and one that is large."""
    places = np.arange(shape[0] * shape[1])
    numbers = (1 + places * 37 % 101 / 128) * 2.0 ** (places % 3 - 1) * (-1.0) ** places
    numbers[2], numbers[-1] = 0, 60_000
    return numbers.astype(NUMPY[dtype]).tobytes()


@pytest.mark.parametrize(("dtype", "shape", "written"), WRITTEN)
def test_bytes_are_those_of_earlier_releases(dtype, shape, written):
    exact = ExactCoder(dtype, (np.arange(shape[1]) % 3).astype(np.uint8))
    raw = told_rows(dtype, shape)
    assert bytes(exact.decode(bytes.fromhex(written), shape[0])) == raw
    assert exact.encode(raw, shape[0]) == bytes.fromhex(written)


def test_one_coder_serves_several_threads():
    exact = coder(Dtype.BF16, 300)
    frames = [(normal_rows(Dtype.BF16, (n, 300), seed), n) for seed in range(20) for n in (1, 5)]

    def coded_and_back(_: int) -> list[tuple[bytes | None, bytes]]:
        coded = [exact.encode(raw, num_rows) for raw, num_rows in frames]
        return [
            (payload, bytes(exact.decode(payload or b"", num_rows)))
            for payload, (_, num_rows) in zip(coded, frames, strict=True)
        ]

    alone = coded_and_back(0)
    assert [back for _, back in alone] == [raw for raw, _ in frames]
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert all(each == alone for each in threads.map(coded_and_back, range(16)))
    finally:
        sys.setswitchinterval(interval_s)


@pytest.mark.parametrize(
    ("dtype", "most"), [(Dtype.BF16, 0.68), (Dtype.FP16, 0.87), (Dtype.FP32, 0.84)]
)
@pytest.mark.parametrize("num_rows", [1, 5, 100])
def test_centres_and_shifts_take_scales_out_of_rows(dtype, most, num_rows):
    # Channels up to 64 times as large as others, and rows too: nothing of that costs bits.
    rng = np.random.default_rng(3)
    scales = np.round(rng.uniform(-3, 3, 512), 2)
    rows = rng.standard_normal((num_rows, 512)) * 2.0**scales
    rows *= 2.0 ** rng.uniform(-3, 3, (num_rows, 1))
    raw = rows.astype(NUMPY[dtype]).tobytes()
    coded = ExactCoder(dtype, centres_of(scales.tolist(), dtype)).encode(raw, num_rows)
    blind = ExactCoder(dtype, no_centres(512).up).encode(raw, num_rows)
    assert coded is not None
    assert blind is not None
    assert len(coded) <= most * len(raw)
    assert len(blind) > 1.02 * len(coded)


@given(up=st.binary(min_size=7, max_size=7), down=st.binary(min_size=7, max_size=7))
def test_centres_come_back_from_tables(up, down):
    centres = Centres(np.frombuffer(up, np.uint8), np.frombuffer(down, np.uint8))
    further = b"\x09\x02\x00\x00\x00ab"
    for tables in (centres.tables, centres.tables + further):
        read = read_centres(tables, 7)
        assert (read.up.tobytes(), read.down.tobytes()) == (up, down)


def test_tables_without_centres_are_zeros():
    read = read_centres(b"", 3)
    assert read.up.tolist() == read.down.tolist() == [0, 0, 0]


@given(tables=st.binary(max_size=60))
def test_any_tables_are_read_or_refused(tables):
    read = _unless_refused(lambda: read_centres(tables, 7))
    assert read is None or read.up.size == read.down.size == 7


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        (b"\x01\x00", "a section's 5 bytes, got 2"),
        (b"\x01\x09\x00\x00\x00ab", "at most 2 bytes, got 9 of kind 1"),
        (b"\x01\x00\x00\x00\x00" * 2, "got 0 of kind 1"),
        (b"\x01\x02\x00\x00\x00ab", "expected 7 centres, got 2"),
    ],
)
def test_broken_tables_are_refused(tables, reason):
    with pytest.raises(RemoteProtocolError, match=reason):
        read_centres(tables, 7)

"""Who may send rounded rows, in which codec Replies are, and which channels travel as they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from submodels.calibration.scales import largest_channels
from wire.coding.lossy import (
    LOSSY_ABILITIES,
    LOSSY_CODECS,
    Kept,
    Rounding,
    kept_channels,
    read_kept,
    reply_codec,
)
from wire.coding.row_codecs import EXACT_CODECS, row_codecs
from wire.coding.tables import read_centres, write_sections
from wire.errors import FaultCode, RemoteProtocolError
from wire.limits import RowLimits
from wire.messages import Ability, Codec, Dtype

HIDDEN = 96
RAW = 1 << Codec.RAW
CHANNELS = st.lists(st.integers(0, HIDDEN - 1), unique=True, max_size=64).map(sorted).map(tuple)


@given(up=CHANNELS, down=CHANNELS)
def test_kept_channels_arrive_as_they_were(up: tuple[int, ...], down: tuple[int, ...]) -> None:
    kept = Kept(up, down)
    assert read_kept(write_sections(kept.sections), HIDDEN) == kept


@given(tables=st.binary(max_size=60))
def test_any_tables_are_read_or_refused(tables: bytes) -> None:
    try:
        kept = read_kept(tables, HIDDEN)
    except RemoteProtocolError:
        return
    for channels in (kept.up, kept.down):
        assert list(channels) == sorted(set(channels))
        assert all(0 <= channel < HIDDEN for channel in channels)


@pytest.mark.parametrize(
    "section",
    [
        np.array([3, 3], "<u4").tobytes(),
        np.array([4, 3], "<u4").tobytes(),
        np.array([HIDDEN], "<u4").tobytes(),
        np.arange(65, dtype="<u4").tobytes(),
        b"\1\0\0",
    ],
    ids=["twice", "descending", "too high", "too many", "torn"],
)
def test_channels_out_of_order_or_range_are_refused(section: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        read_kept(write_sections({3: section}), 1000 if len(section) > 100 else HIDDEN)
    assert caught.value.code is FaultCode.BAD_FRAME


def test_readers_of_centres_skip_kept_channels() -> None:
    centres = read_centres(write_sections(Kept((1,), (2,)).sections), HIDDEN)
    assert not centres.up.any()


def test_the_largest_channels_are_kept_in_order() -> None:
    assert kept_channels((9, 3, 7, 1, 30, 2, 5), ()) == Kept((1, 2, 3, 7, 9, 30), ())


ALL = RAW | EXACT_CODECS | LOSSY_ABILITIES


@pytest.mark.parametrize(
    ("frame", "codecs", "expected"),
    [
        (Codec.EXACT, ALL & ~Rounding(down=Codec.INT6).codecs | LOSSY_CODECS, Codec.INT8),
        (Codec.RAW, RAW | Rounding(down=Codec.INT6).codecs, Codec.INT6),
        (Codec.INT6, RAW | EXACT_CODECS | Rounding(down=Codec.INT8).codecs, Codec.INT8),
        (Codec.INT8, RAW | EXACT_CODECS | LOSSY_CODECS, Codec.EXACT),
        (Codec.INT8, RAW | LOSSY_CODECS, Codec.RAW),
        (Codec.PADDED, RAW | EXACT_CODECS | LOSSY_CODECS, Codec.PADDED),
        (Codec.RAW, RAW | EXACT_CODECS | LOSSY_CODECS, Codec.RAW),
        (Codec.EXACT, RAW | EXACT_CODECS | LOSSY_ABILITIES & ~LOSSY_CODECS, Codec.EXACT),
    ],
)
def test_replies_are_lossy_only_where_the_device_asked(  # W43
    frame: Codec, codecs: int, expected: Codec
) -> None:
    assert reply_codec(frame, codecs) is expected


def test_a_device_that_asks_for_nothing_has_no_bit_set() -> None:
    assert Rounding().codecs == 0
    assert Rounding().named == {}


def test_what_is_asked_for_is_agreed_whole_or_not_at_all() -> None:
    wish = Rounding(prompt=Codec.INT6, down=Codec.INT8)
    assert wish.codecs == 1 << Codec.INT6 | 1 << Codec.INT8 | 1 << Ability.INT8_REPLIES
    assert wish.named == {"prompt": "int6", "down": "int8"}
    assert wish.agreed(RAW | wish.codecs) == wish
    assert wish.agreed(RAW | 1 << Codec.INT6) == Rounding()


@pytest.mark.parametrize("codec", [Codec.INT8, Codec.INT6])
def test_rows_go_through_a_connections_codecs_and_lose_little(codec: Codec) -> None:
    rows = np.random.default_rng(0).standard_normal((5, HIDDEN)).astype(np.float32)
    rows[:, 7] *= 1000
    limits = RowLimits(HIDDEN, Dtype.FP32, 8, RAW | LOSSY_CODECS)
    coder = row_codecs(limits, write_sections(Kept((7,), ()).sections)).up[codec]
    payload = coder.encode(rows.tobytes(), 5)
    assert payload is not None
    came = np.frombuffer(coder.decode(payload, 5), np.float32).reshape(rows.shape)
    assert np.array_equal(came[:, 7], rows[:, 7])
    assert 0 < np.abs(came - rows).max() < 0.07


def test_what_was_not_agreed_is_not_there() -> None:
    codecs = row_codecs(RowLimits(HIDDEN, Dtype.BF16, 8, RAW | EXACT_CODECS), b"")
    assert not {Codec.INT8, Codec.INT6} & (codecs.up.keys() | codecs.down.keys())


def test_a_split_finds_the_channels_that_stand_out() -> None:
    rows = np.random.default_rng(1).standard_normal((50, HIDDEN)).astype(np.float32)
    rows[:, [5, 40]] *= (30, 60)
    rows[0] = 0
    rows[0, 9] = 1e6
    largest = largest_channels(rows)
    assert (largest[:2], len(largest)) == ((40, 5), 16)
    rows[3, 3] = np.nan
    assert largest_channels(rows) == ()

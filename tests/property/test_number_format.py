"""The choice of a number format, over all times and sizes."""

from hypothesis import given
from hypothesis import strategies as st

from cloud_server.number_format import FormatTimes, Room, choose_format
from wire.messages import Dtype

seconds = st.floats(1e-6, 1e4)
times = st.builds(FormatTimes, seconds, seconds)
stored = st.sampled_from([Dtype.BF16, Dtype.FP16])
sizes = st.integers(0, 1 << 50)


@given(stored=stored, own=times, wide=times, needed=sizes, free=sizes)
def test_the_choice_fits_and_is_hardly_ever_the_slower_one(
    stored: Dtype, own: FormatTimes, wide: FormatTimes, needed: int, free: int
) -> None:
    choice = choose_format(stored, {stored: own, Dtype.FP32: wide}, Room(needed, free))
    assert choice.dtype in (stored, Dtype.FP32)
    if choice.dtype is Dtype.FP32:
        assert needed <= free
        assert wide.request_s < own.request_s
    elif needed <= free:
        assert wide.request_s > 0.89 * own.request_s


@given(stored=stored, own=times, wide=times, factor=st.floats(1.0, 100.0))
def test_a_slower_format_of_the_bundles_never_makes_float32_less_likely(
    stored: Dtype, own: FormatTimes, wide: FormatTimes, factor: float
) -> None:
    slower = FormatTimes(own.prompt_s * factor, own.round_s * factor)
    before, after = (
        choose_format(stored, {stored: each, Dtype.FP32: wide}, Room(0, 0)).dtype
        for each in (own, slower)
    )
    assert after is Dtype.FP32 or before is stored

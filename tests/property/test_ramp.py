"""The ramp's formula against a connection in slow start, segment by segment, and measured times."""

import heapq
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunking.ramp import INITIAL_WINDOW_BYTES, SEGMENT_BYTES, ramp_s

sizes = st.integers(0, 3_000_000)
rates = st.floats(1e4, 1e9)
round_trips = st.floats(0.0, 0.5)
windows = st.integers(SEGMENT_BYTES, 100 * SEGMENT_BYTES)


def _last_sent_s(num_segments: int, segment_s: float, rtt_s: float, window: int) -> float:
    """When the last segment has left, if each acknowledgement lets two more go.

    Of the first window each may go at once, as if acknowledged at 0.
    """
    acknowledged = [0.0] * window
    allowed, sent, free_s = 0, 0, 0.0
    while sent < num_segments:
        now_s = heapq.heappop(acknowledged)
        allowed += 1 if sent < window else 2
        while sent < min(allowed, num_segments):
            free_s = max(free_s, now_s) + segment_s
            sent += 1
            heapq.heappush(acknowledged, free_s + rtt_s)
    return free_s


@given(
    num_segments=st.integers(1, 1500),
    window=st.integers(1, 40),
    segment_s=st.floats(1e-5, 1e-2),
    rtt_s=round_trips,
)
def test_the_formula_is_that_of_segments(
    num_segments: int, window: int, segment_s: float, rtt_s: float
) -> None:
    added_s = ramp_s(
        num_segments * SEGMENT_BYTES, SEGMENT_BYTES / segment_s, rtt_s, window * SEGMENT_BYTES
    )
    stepwise_s = _last_sent_s(num_segments, segment_s, rtt_s, window) - num_segments * segment_s
    rounds = math.log2(num_segments / window + 1) + 1
    assert added_s == pytest.approx(stepwise_s, abs=2 * rounds * segment_s)


@given(num_bytes=sizes, more=sizes, rate=rates, rtt_s=round_trips, window=windows)
def test_more_bytes_never_ramp_shorter_and_a_larger_window_never_longer(
    num_bytes: int, more: int, rate: float, rtt_s: float, window: int
) -> None:
    added_s = ramp_s(num_bytes, rate, rtt_s, window)
    assert 0.0 <= added_s <= ramp_s(num_bytes + more, rate, rtt_s, window)
    assert ramp_s(num_bytes, rate, rtt_s, 2 * window) <= added_s


@given(rate=rates, rtt_s=round_trips, window=windows)
def test_what_fits_the_window_goes_at_once(rate: float, rtt_s: float, window: int) -> None:
    assert ramp_s(window, rate, rtt_s, window) == 0.0


def test_on_a_link_without_a_rate_only_round_trips_count() -> None:
    assert ramp_s(10 * SEGMENT_BYTES * 7, math.inf, 0.1, INITIAL_WINDOW_BYTES) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("num_bytes", "mbit", "rtt_ms", "connections", "measured_ms"),
    [
        (160_000, 20, 40, 1, 78),
        (160_000, 20, 80, 1, 204),
        (160_000, 200, 40, 1, 119),
        (2_000_000, 200, 40, 1, 216),
        (160_000, 20, 80, 4, 58),
        (160_000, 200, 40, 4, 38),
    ],
)
def test_it_comes_near_to_what_a_shaped_link_took(
    num_bytes: int, mbit: float, rtt_ms: float, connections: int, measured_ms: float
) -> None:
    window = connections * INITIAL_WINDOW_BYTES
    added_s = ramp_s(num_bytes, mbit * 1e6 / 8, rtt_ms / 1e3, window)
    assert added_s * 1e3 == pytest.approx(measured_ms, rel=0.06)


@pytest.mark.parametrize(
    "arguments",
    [
        (-1, 1e6, 0.1, 1),
        (1, 0.0, 0.1, 1),
        (1, math.nan, 0.1, 1),
        (1, 1e6, -0.1, 1),
        (1, 1e6, 0.1, 0),
    ],
)
def test_what_no_link_can_be_is_refused(arguments: tuple[int, float, float, int]) -> None:
    with pytest.raises(ValueError, match="expected num_bytes >= 0"):
        ramp_s(*arguments)

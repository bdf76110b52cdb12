"""How many further sockets a link is worth, how fast they are given bytes, and when not at all."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.link.lane_count import LaneTrust, LinkSize, Pace, useful_lanes
from process.sockets.windows import FIRST_WINDOW_SEGMENTS, SEGMENT_BYTES
from wire.limits import MAX_LANES

MBIT = 1e6 / 8
FRAME_BYTES = 2_000_000
FIRST_WINDOW = FIRST_WINDOW_SEGMENTS * SEGMENT_BYTES

sizes = st.builds(
    LinkSize,
    round_trip_s=st.none() | st.floats(0.0, 2.0),
    uplink_bytes_per_s=st.none() | st.floats(1.0, 1e10),
)


@pytest.mark.parametrize(
    ("round_trip_s", "rate", "expected"),
    [
        (None, None, 0),
        (0.0002, None, 0),
        (0.002, 1000 * MBIT, 0),
        (0.04, None, 4),
        (0.04, 5 * MBIT, 3),
        (0.04, 20 * MBIT, 11),
        (0.04, 200 * MBIT, MAX_LANES),
        (0.01, 5 * MBIT, 1),
    ],
)
def test_lanes_are_for_the_first_windows_that_the_link_holds(round_trip_s, rate, expected):
    assert useful_lanes(LinkSize(round_trip_s, rate), FRAME_BYTES) == expected


def test_short_frames_want_fewer_lanes():
    assert useful_lanes(LinkSize(0.04, 200 * MBIT), 2 * FIRST_WINDOW) == 2


@given(link=sizes, frame_bytes=st.integers(1, 1 << 26))
def test_the_number_is_within_its_bounds(link, frame_bytes):
    assert 0 <= useful_lanes(link, frame_bytes) <= MAX_LANES


@given(
    rate=st.floats(1e4, 1e9),
    wanted=st.lists(st.integers(1, 65_536), max_size=60),
    looks_s=st.lists(st.floats(0.0, 0.02), min_size=200, max_size=200),
)
def test_the_pace_is_at_most_twice_the_rate_and_a_little_at_once(rate, wanted, looks_s):
    link, pace, now, num_sent, most_at_once = LinkSize(0.04, rate), Pace(), 100.0, 0, 0
    for look_s in looks_s:
        most = pace.most_bytes(link, now)
        assert most is not None
        if most and wanted:
            num_bytes = min(most, wanted.pop())
            pace.sent(num_bytes, link, now)
            num_sent, most_at_once = num_sent + num_bytes, max(most_at_once, most)
        assert num_sent <= 2 * rate * (now - 100.0 + 0.004) + most_at_once + 1
        now += look_s


def test_on_a_link_that_is_not_known_nothing_is_held_back():
    pace, link = Pace(), LinkSize(0.04)
    pace.sent(1 << 20, link, 0.0)
    assert pace.most_bytes(link, 0.0) is None
    assert math.isinf(link.num_bytes)


def test_after_a_broken_lane_there_is_none_for_a_while_and_then_for_twice_as_long():
    trust = LaneTrust()
    assert trust.allows(0.0)
    trust.broke(0.0)
    assert not trust.allows(29.0)
    assert trust.allows(30.0)
    trust.broke(100.0)
    assert not trust.allows(159.0)
    assert trust.allows(160.0)
    for _ in range(20):
        trust.broke(1000.0)
    assert trust.allows(1000.0 + 3600.0)

"""How many further sockets a link is worth, how fast they are given bytes, and when not at all."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunking.ramp import ramp_s
from device_runtime.link.lane_count import (
    Bursts,
    LaneTrust,
    LinkSize,
    Openings,
    useful_lanes,
)
from device_runtime.link.pace import Pace
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
        (0.04, 20 * MBIT, 10),
        (0.04, 200 * MBIT, 16),
        (0.01, 5 * MBIT, 1),
    ],
)
def test_lanes_are_for_the_first_windows_that_the_link_holds(round_trip_s, rate, expected):
    assert useful_lanes(LinkSize(round_trip_s, rate), FRAME_BYTES) == expected


def test_short_frames_want_fewer_lanes():
    assert useful_lanes(LinkSize(0.04, 200 * MBIT), 2 * FIRST_WINDOW) == 2


@pytest.mark.parametrize(
    ("round_trip_s", "rate", "burst_bytes", "expected"),
    [
        (0.01, 200 * MBIT, 2_000_000, 16),
        (0.04, 200 * MBIT, 160_000, 16),
        (0.04, 200 * MBIT, 2_000_000, 50),
        (0.08, 200 * MBIT, 160_000, 16),
        (0.08, 200 * MBIT, 2_000_000, MAX_LANES),
        (0.04, 20 * MBIT, 20_000_000, 10),
    ],
)
def test_more_than_sixteen_are_for_long_bursts_on_long_and_fast_links(
    round_trip_s, rate, burst_bytes, expected
):
    assert useful_lanes(LinkSize(round_trip_s, rate), FRAME_BYTES, burst_bytes) == expected


@given(link=sizes, frame_bytes=st.integers(1, 1 << 26), burst_bytes=st.integers(0, 1 << 30))
def test_the_number_is_within_its_bounds_and_the_fewest_that_do(link, frame_bytes, burst_bytes):
    count = useful_lanes(link, frame_bytes, burst_bytes)
    assert 0 <= useful_lanes(link, frame_bytes) <= min(16, count) <= count <= MAX_LANES
    if count <= 16:
        return
    num_bytes = int(min(burst_bytes, link.num_bytes))
    warm_s = num_bytes / link.uplink_bytes_per_s + link.round_trip_s / 2

    def added_s(num_lanes):
        window_bytes = num_lanes * FIRST_WINDOW
        return ramp_s(num_bytes, link.uplink_bytes_per_s, link.round_trip_s, window_bytes)

    assert added_s(count - 1) > 0.15 * warm_s
    assert count == MAX_LANES or added_s(count) <= 0.15 * warm_s


def test_a_burst_ends_with_a_pause_or_an_answer_and_is_forgotten_after_ten_minutes():
    bursts = Bursts()
    assert bursts.longest(0.0) == 0
    for now in (10.0, 10.5, 11.2):
        bursts.sent(500, now, is_all_answered=now == 10.0)
    bursts.sent(700, 11.3, is_all_answered=True)
    bursts.sent(1000, 13.0, is_all_answered=False)
    assert bursts.longest(13.0) == 1500
    assert bursts.longest(611.2) == 1500
    assert bursts.longest(611.3) == 0
    bursts.sent(100, 650.0, is_all_answered=False)
    assert bursts.longest(650.0) == 100


def test_after_a_refusal_the_lanes_that_there_were_are_made_anew_and_one_asks_for_more_later():
    openings = Openings()
    assert openings.most(0, 0.0) == 8
    for count in range(1, 17):
        openings.opened(count, 1.0)
    openings.failed(16, 2.0)
    openings.failed(16, 2.1)
    assert openings.most(16, 10.0) == 0
    assert openings.most(14, 10.0) == 2
    openings.opened(15, 11.0)
    assert [openings.most(16, now) for now in (31.9, 32.1)] == [0, 1]
    openings.failed(16, 33.0)
    assert [openings.most(16, now) for now in (92.0, 94.0)] == [0, 1]
    for count, expected in ((17, 2), (18, 4), (19, 8), (20, 8)):
        openings.opened(count, 95.0)
        assert openings.most(count, 95.0) == expected


@given(
    events=st.lists(st.tuples(st.floats(0.0, 4000.0), st.booleans(), st.integers(0, 64))),
    num_lanes=st.integers(0, 64),
)
def test_no_more_than_eight_are_opened_at_once_and_a_rest_ends_within_an_hour(events, num_lanes):
    openings, now = Openings(), 0.0
    for after_s, is_failure, count in events:
        now += after_s
        (openings.failed if is_failure else openings.opened)(count, now)
        assert 0 <= openings.most(num_lanes, now) <= 8
    assert openings.most(num_lanes, now + 3600.0) >= 1


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

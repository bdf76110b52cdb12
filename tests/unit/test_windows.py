"""Which of several connections takes the next bytes, and what a pause leaves of a window."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from process.sockets.tcp import TELLS_PROGRESS, send_window
from process.sockets.windows import (
    FIRST_WINDOW_SEGMENTS,
    SEGMENT_BYTES,
    Window,
    after_pause,
    next_taker,
)

FIRST = FIRST_WINDOW_SEGMENTS * SEGMENT_BYTES
INFINITE = float("inf")

windows = st.lists(
    st.builds(Window, st.integers(0, 2_000_000), st.integers(0, 2_000_000), st.floats(0.0, 1.0)),
    max_size=17,
)


def dealt(windows, num_bytes, most_bytes=INFINITE):
    """How many bytes each connection has been given when nothing more goes for now."""
    given_bytes = [0] * len(windows)
    while num_bytes:
        now = [
            Window(w.num_bytes, w.num_under_way + more, w.round_trip_s)
            for w, more in zip(windows, given_bytes, strict=True)
        ]
        taker = next_taker(now, min(num_bytes, 4096), most_bytes)
        if taker is None:
            break
        given_bytes[taker[0]] += min(taker[1], num_bytes)
        num_bytes -= min(taker[1], num_bytes)
    return given_bytes


def test_first_windows_add_up_after_a_pause():
    cold = [Window(FIRST, 0, 0.04)] * 12
    assert dealt(cold, 160_000) == [FIRST] * 11 + [160_000 - 11 * FIRST]


@pytest.mark.parametrize("round_trip_s", [0.003, 0.01, 0.02, 0.04])
def test_nothing_above_the_window_goes_to_a_connection_that_rests(round_trip_s):
    """An eleventh segment after a pause would wait for a round trip, also where that is short."""
    cold = [Window(FIRST, 0, round_trip_s)] * 16
    assert dealt(cold, 160_000) == [FIRST] * 11 + [160_000 - 11 * FIRST] + [0] * 4


def test_a_connection_that_sends_takes_what_is_acknowledged_until_the_next_look():
    busy = Window(20 * SEGMENT_BYTES, 10 * SEGMENT_BYTES, 0.01)
    assert busy.room_bytes == (10 + 2) * SEGMENT_BYTES
    late = Window(20 * SEGMENT_BYTES, SEGMENT_BYTES, 0.01)
    assert late.room_bytes == 19 * SEGMENT_BYTES


def test_one_warm_connection_carries_all_on_a_link_that_holds_no_more():
    warm = [Window(FIRST, 0, 0.04), Window(200_000, 0, 0.04), Window(FIRST, 0, 0.04)]
    assert dealt(warm, 1_000_000, most_bytes=150_000) == [0, 200_000, 0]


def test_several_warm_ones_do_not_hold_more_than_the_link():
    warm = [Window(100_000, 0, 0.04)] * 4
    assert sum(dealt(warm, 1_000_000, most_bytes=150_000)) == 150_000


@given(windows=windows, least=st.integers(1, 10_000), most=st.floats(0, 4e6) | st.just(INFINITE))
def test_what_is_dealt_fits_its_window_and_the_link_or_the_largest_window(windows, least, most):
    taker = next_taker(windows, least, most)
    if taker is None:
        return
    index, num_bytes = taker
    largest = max(window.num_bytes + SEGMENT_BYTES + window.num_bytes for window in windows)
    assert min(least, windows[index].num_bytes) <= num_bytes <= windows[index].room_bytes
    assert sum(window.num_under_way for window in windows) + num_bytes <= max(most, largest)


@given(
    sizes=st.lists(st.integers(0, 100_000), max_size=16),
    last=st.integers(1, 100_000),
    most=st.floats(0, 1e6),
)
def test_of_idle_connections_one_always_takes_something(sizes, last, most):
    windows = [Window(size, 0, 0.05) for size in (*sizes, last)]
    assert next_taker(windows, 4096, most) is not None


@pytest.mark.parametrize(
    ("num_segments", "paused_s", "expected"),
    [
        (80, 0.1, 80),
        (80, 0.25, 40),
        (80, 0.7, 20),
        (80, 0.73, 10),
        (80, 1e9, 10),
        (15, 0.25, 10),
        (4, 60.0, 4),
    ],
)
def test_a_pause_halves_a_window_down_to_the_first(num_segments, paused_s, expected):
    assert after_pause(num_segments, paused_s, 0.24) == expected


def test_without_a_timeout_nothing_is_known_of_pauses():
    assert after_pause(80, 10.0, 0.0) == 80


@pytest.mark.skipif(not TELLS_PROGRESS, reason="the system does not tell")
def test_the_system_tells_a_new_connections_window():
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as sock,
    ):
        window = send_window(sock, 5)
    assert window.num_bytes >= FIRST_WINDOW_SEGMENTS * 500
    assert window.num_under_way == 5
    assert 0.0 < window.round_trip_s < 1.0

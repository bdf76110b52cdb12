"""A WebSocket's first message, cut into frames and reads in any way, is found and bounded."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from process.listening.first_message import FirstMessage, TooLargeError

MAX_BYTES = 2048


def _frame(opcode: int, payload: bytes, is_last: bool) -> bytes:
    first = opcode | (0x80 if is_last else 0)
    length = len(payload)
    if length < 126:
        head = struct.pack(">BB", first, 0x80 | length)
    elif length < 1 << 16:
        head = struct.pack(">BBH", first, 0x80 | 126, length)
    else:
        head = struct.pack(">BBQ", first, 0x80 | 127, length)
    return head + bytes(4) + payload


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


parts = st.lists(st.integers(0, 300), min_size=1, max_size=5)
cuts = st.lists(st.integers(0, 10_000), max_size=20)


@given(parts, st.lists(st.integers(0, 5), max_size=3), st.binary(max_size=50), cuts)
def test_all_bytes_up_to_the_end_of_the_first_message_are_passed_on(sizes, pings, rest, cuts):
    frames = [
        _frame(2 if n == 0 else 0, bytes(size), n == len(sizes) - 1) for n, size in enumerate(sizes)
    ]
    for place in pings:
        frames.insert(min(place, len(frames) - 1), _frame(9, b"ping", True))
    message = b"".join(frames)
    first, passed = FirstMessage(MAX_BYTES), bytearray()
    for piece in _cut(message + rest, cuts):
        if not first.is_whole:
            passed += piece[: first.take(piece)]
    assert first.is_whole
    assert bytes(passed) == message


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=6), cuts, st.booleans())
def test_no_more_is_held_than_allowed(sizes, cuts, ends):
    frames = [
        _frame(2 if n == 0 else 0, bytes(size), ends and n == len(sizes) - 1)
        for n, size in enumerate(sizes)
    ]
    first, held = FirstMessage(MAX_BYTES), 0
    try:
        for piece in _cut(b"".join(frames), cuts):
            held += first.take(piece)
    except TooLargeError:
        assert sum(sizes) > MAX_BYTES
    else:
        assert sum(sizes) <= MAX_BYTES
    assert held <= 2 * MAX_BYTES


@pytest.mark.parametrize("length", [MAX_BYTES + 1, 1 << 16, 1 << 40, (1 << 64) - 1])
def test_an_announced_length_is_enough_to_refuse(length):
    head = struct.pack(">BBQ", 0x82, 0xFF, length) + bytes(4)
    with pytest.raises(TooLargeError):
        FirstMessage(MAX_BYTES).take(head)


def test_frames_without_a_message_come_to_an_end():
    pings = _frame(9, bytes(100), True) * 1000
    with pytest.raises(TooLargeError):
        FirstMessage(MAX_BYTES).take(pings)

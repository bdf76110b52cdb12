"""What follows a peer's first message: everything, or messages of a bounded length."""

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from process.listening.threshold import Threshold
from tests.property.test_process_first_message import _cut, _frame

MOST_BYTES = 500


class Reader:
    """Keeps what it is fed."""

    def __init__(self) -> None:
        self.fed = bytearray()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.fed += data
        return False, b""


class Transport:
    """Only its reading is looked at."""

    is_reading = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True


class World:
    """A threshold that its peer's first message has passed, opened for messages so long."""

    def __init__(self, most_bytes: int | None) -> None:
        self.reader, self.transport, self.num_told = Reader(), Transport(), 0
        self.threshold = Threshold(1000, cast(Any, self.transport))
        self.threshold.guard(cast(Any, self.reader))
        self.threshold.on_too_large = self._told
        self.first = _frame(2, b"hello", True)
        self.threshold.feed_data(self.first)
        self.threshold.open(most_bytes)

    def _told(self) -> None:
        self.num_told += 1

    def feed(self, data: bytes, cuts: list[int]) -> None:
        for piece in _cut(data, cuts):
            self.threshold.feed_data(piece)


cuts = st.lists(st.integers(0, 10_000), max_size=20)


@given(sizes=st.lists(st.integers(0, MOST_BYTES), max_size=8), cuts=cuts)
def test_messages_within_the_bound_pass_however_they_come(
    sizes: list[int], cuts: list[int]
) -> None:
    world = World(MOST_BYTES)
    data = b"".join(_frame(2, bytes(size), True) for size in sizes)
    world.feed(data, cuts)
    assert bytes(world.reader.fed) == world.first + data
    assert world.num_told == 0


@given(
    sizes=st.lists(st.integers(0, MOST_BYTES), max_size=4),
    longer=st.integers(MOST_BYTES + 1, 5000),
    cuts=cuts,
)
def test_a_longer_message_is_told_of_and_none_of_it_is_read(
    sizes: list[int], longer: int, cuts: list[int]
) -> None:
    world = World(MOST_BYTES)
    before = b"".join(_frame(2, bytes(size), True) for size in sizes)
    world.feed(before + _frame(2, bytes(longer), True), cuts)
    world.feed(_frame(2, b"more", True), [])
    assert world.num_told == 1
    assert not world.transport.is_reading
    assert len(world.reader.fed) <= len(world.first) + len(before) + 14


def test_pings_without_end_between_messages_are_no_long_message() -> None:
    world = World(MOST_BYTES)
    for _ in range(1000):
        world.feed(_frame(9, b"still there", True), [])
    world.feed(_frame(2, bytes(MOST_BYTES), True), [])
    assert world.num_told == 0


@pytest.mark.parametrize("num_bytes", [MOST_BYTES + 1, 1 << 20])
def test_without_a_bound_everything_passes(num_bytes: int) -> None:
    world = World(None)
    world.feed(_frame(2, bytes(num_bytes), True), [])
    assert world.num_told == 0
    assert len(world.reader.fed) > num_bytes

"""Frames to one socket: in order, bounded, and given up when nothing moves."""

import asyncio
from collections.abc import Callable

import pytest

from cloud_server.core.names.people import Person
from cloud_server.daemon.connection import Connection, Later, SendLimits
from process.sockets.memory import Direct, MemorySocket, memory_pair
from wire.messages import Fault

pytestmark = pytest.mark.event_loop("virtual")

LIMITS = SendLimits(max_backlog_bytes=100, stall_timeout_s=5.0)


class HeldWay(Direct):
    """Holds what is sent while it is told to; `held_bytes` are said to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.held_bytes = 0

    def carry(self, frame: bytes, arrive: Callable[[bytes], None]) -> None:
        self.held_bytes += 0 if self.may_go.is_set() else len(frame)
        super().carry(frame, arrive)

    async def until_room(self) -> None:
        await self.may_go.wait()

    def num_unsent_bytes(self) -> int:
        return self.held_bytes


class FakeHost:
    """Hears of no decision: the core is not there."""

    def greeted(self, is_lane: bool, person: Person) -> None: ...

    where = ""

    def limited(self) -> None: ...

    def refused(self, fault: Fault) -> None: ...


def _make() -> tuple[Connection, MemorySocket, HeldWay]:
    """A connection, its device's end, and the way there."""
    way = HeldWay()
    near, far = memory_pair(way, Direct())
    return Connection(near, LIMITS, FakeHost()), far, way


async def _all_of(far: MemorySocket) -> list[bytes]:
    """What came until the end."""
    frames: list[bytes] = []
    while (frame := await far.receive()) is not None:
        frames.append(frame)
    return frames


async def test_frames_are_written_in_order_and_then_the_socket_is_closed() -> None:
    connection, far, _ = _make()
    for number in range(5):
        assert connection.send(bytes([number]))
    connection.finish()
    await connection.end(timeout_s=5.0)
    assert await _all_of(far) == [bytes([number]) for number in range(5)]


async def test_a_connection_that_is_not_finished_ends_without_waiting() -> None:
    connection, far, way = _make()
    way.may_go.clear()
    connection.send(b"never")
    await connection.end(timeout_s=1000.0)
    assert asyncio.get_running_loop().time() == 0.0
    await far.send(b"the socket is still open")


async def test_too_long_a_backlog_cuts_the_connection() -> None:
    connection, far, way = _make()
    way.may_go.clear()
    assert connection.send(bytes(60))
    assert connection.send(bytes(40))
    await far.send(b"the socket is still open")
    assert not connection.send(b"!")
    assert await far.receive() is None
    await connection.end(timeout_s=1.0)


async def _never() -> bytes:
    await asyncio.Event().wait()
    raise AssertionError("nobody reads, so nothing is made")


async def test_frames_that_are_made_later_are_a_backlog_until_then() -> None:
    connection, _, _ = _make()
    assert connection.send(Later(_never, num_bytes=60))
    assert connection.send(Later(_never, num_bytes=40))
    assert not connection.send(Later(_never, num_bytes=1))
    await connection.end(timeout_s=5.0)


async def test_a_frame_that_was_made_counts_with_what_it_has_become() -> None:
    connection, far, way = _make()

    async def make() -> bytes:
        return bytes(10)

    way.may_go.clear()
    assert connection.send(Later(make, num_bytes=60))
    await asyncio.sleep(1.0)
    assert connection.send(bytes(90))
    way.may_go.set()
    connection.finish()
    await connection.end(timeout_s=5.0)
    assert await _all_of(far) == [bytes(10), bytes(90)]


async def test_nothing_is_stalled_when_it_is_looked_at_for_the_first_time() -> None:
    connection, _, _ = _make()
    connection.send(b"the writer has not run yet")
    assert not connection.is_stalled(1000.0)
    await connection.end(timeout_s=1.0)


async def test_a_connection_is_stalled_when_nothing_goes_out_for_too_long() -> None:
    connection, _, way = _make()
    assert not connection.is_stalled(10.0)
    way.may_go.clear()
    connection.send(bytes(50))
    await asyncio.sleep(0)
    assert not connection.is_stalled(10.0)
    assert not connection.is_stalled(15.0)
    assert connection.is_stalled(15.1)
    way.held_bytes -= 1
    assert not connection.is_stalled(15.2)
    assert not connection.is_stalled(20.2)
    assert connection.is_stalled(20.3)
    way.held_bytes = 0
    assert not connection.is_stalled(21.0)
    assert not connection.is_stalled(1000.0)
    await connection.end(timeout_s=1.0)

"""A lane whose window has shrunk is replaced, and never while a frame has no other."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from device_runtime.link.config import Patience
from device_runtime.link.lane_count import LinkSize
from device_runtime.link.lanes import LanePlan, Lanes
from process.sockets.memory import MemorySocket, Steady, memory_pair
from process.sockets.socket import Socket
from process.sockets.windows import Window
from tests.support.event_loop import until
from wire.codec import decode, encode
from wire.messages import Join, Joined, Message, Piece

pytestmark = pytest.mark.event_loop("virtual")

SLOW = LinkSize(round_trip_s=0.04, uplink_bytes_per_s=1000.0)
"""So that the second of two frames waits for the pace."""

FRAME = bytes(6000)


class Cloud:
    """Takes each socket as a lane, and keeps what comes on it."""

    def __init__(self) -> None:
        self.sockets: list[MemorySocket] = []
        self.pieces: list[tuple[int, Piece]] = []
        self._tasks: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def dial(self) -> AsyncIterator[Socket]:
        loop = asyncio.get_running_loop()
        near, far = memory_pair(Steady(loop, 1e6, 0.02), Steady(loop, 1e6, 0.02))
        self.sockets.append(near)
        self._tasks.append(asyncio.create_task(self._serve(len(self.sockets), far)))
        yield near

    async def _serve(self, number: int, far: MemorySocket) -> None:
        while (frame := await far.receive()) is not None:
            message: Message = decode(frame)
            if isinstance(message, Join):
                await far.send(encode(Joined()))
            elif isinstance(message, Piece):
                self.pieces.append((number, message))


async def test_the_only_lane_ends_when_another_is_there_and_a_frame_that_waits_goes_over_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, cloud, broken = asyncio.get_running_loop(), Cloud(), list[str]()

    def window(socket: MemorySocket) -> Window:
        return Window(7000 if socket is cloud.sockets[0] else 14_480, 0)

    monkeypatch.setattr(MemorySocket, "window", window)
    plan = LanePlan(
        dial=cloud.dial,
        join=Join(1, bytes(16), b""),
        most=1,
        is_fixed=True,
        frame_bytes=len(FRAME),
        size=lambda: SLOW,
        why=str,
    )
    lanes = Lanes(plan, Patience(), loop.time, lambda: broken.append("broken"))
    running = asyncio.create_task(lanes.run())
    await until(lambda: len(lanes) == 1)
    await lanes.send(FRAME, key="first")
    lanes.answered("first")
    begun_s = loop.time()
    await lanes.send(FRAME, key="second")
    assert loop.time() - begun_s > 2.0, "it waited long enough for the lane to be replaced"
    await asyncio.sleep(5.0)
    assert not broken
    assert [piece.sequence for _, piece in cloud.pieces] == [0, 1]
    first, second = (number for number, _ in cloud.pieces)
    assert first < second
    assert len(lanes) == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

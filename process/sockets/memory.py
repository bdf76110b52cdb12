"""A `Socket`'s twin in memory: two ends and, between them, a way in each direction."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from process.sockets.pulse import Progress
from process.sockets.socket import HEADER_BYTES
from process.sockets.windows import UNKNOWN_BYTES, Window

_ROOM_BYTES = 131_072


def way_bytes(frame: bytes) -> int:
    """What a frame counts for on a way; a ping, its answer and a goodbye are empty ones."""
    return len(frame) + HEADER_BYTES


class Way(Protocol):
    """One direction of a connection: decides when each frame arrives, if it does."""

    def carry(self, frame: bytes, arrive: Callable[[bytes], None]) -> None:
        """Take a frame. `arrive` is called with it once its last byte is there.

        In the order of the frames, if they are to come in order; not at all for one that is lost;
        twice for one that comes twice. The frame is empty for a ping, its answer and a goodbye.
        """
        ...

    async def until_room(self) -> None:
        """Return when the sender may go on."""
        ...

    def num_unsent_bytes(self) -> int:
        """What waits on this side, of `way_bytes` of each frame."""
        ...

    def num_arrived_bytes(self) -> int:
        """What is on the other side, frames that are not yet whole included."""
        ...


class Direct:
    """A `Way` without any length: a frame is there when it is sent."""

    def __init__(self) -> None:
        self._num_arrived = 0

    def carry(self, frame: bytes, arrive: Callable[[bytes], None]) -> None:
        """See `Way`."""
        self._num_arrived += way_bytes(frame)
        arrive(frame)

    async def until_room(self) -> None:
        """See `Way`."""

    def num_unsent_bytes(self) -> int:
        """See `Way`."""
        return 0

    def num_arrived_bytes(self) -> int:
        """See `Way`."""
        return self._num_arrived


class Steady:
    """A `Way` of one rate and one delay, for whose sender `room_bytes` may wait."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        bytes_per_s: float,
        delay_s: float,
        room_bytes: int = _ROOM_BYTES,
    ) -> None:
        self._loop = loop
        self._bytes_per_s = bytes_per_s
        self._delay_s = delay_s
        self._room_s = room_bytes / bytes_per_s
        self._free_s = 0.0
        self._coming: deque[tuple[float, int]] = deque()
        self._num_arrived = 0

    def carry(self, frame: bytes, arrive: Callable[[bytes], None]) -> None:
        """See `Way`."""
        num_bytes = way_bytes(frame)
        self._free_s = max(self._free_s, self._loop.time()) + num_bytes / self._bytes_per_s
        self._coming.append((self._free_s + self._delay_s, num_bytes))

        def arrived() -> None:
            self._num_arrived += self._coming.popleft()[1]
            arrive(frame)

        self._loop.call_at(self._free_s + self._delay_s, arrived)

    async def until_room(self) -> None:
        """See `Way`."""
        wait_s = self._free_s - self._loop.time() - self._room_s
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    def num_unsent_bytes(self) -> int:
        """See `Way`."""
        return int(max(0.0, self._free_s - self._loop.time()) * self._bytes_per_s)

    def num_arrived_bytes(self) -> int:
        """See `Way`."""
        if not self._coming:
            return self._num_arrived
        end_s, num_bytes = self._coming[0]
        num_missing = max(0.0, end_s - self._loop.time()) * self._bytes_per_s
        return self._num_arrived + max(0, num_bytes - int(num_missing))


class MemorySocket:
    """See `Socket`; one end of a `memory_pair`.

    It answers pings by itself, as a WebSocket's process does while it computes.
    """

    def __init__(self, out: Way, back: Way) -> None:
        self._out = out
        self._back = back
        self._far = self
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._is_over = False
        self._num_written = 0

    def join(self, far: "MemorySocket") -> None:
        """Say which end is the other one."""
        self._far = far

    async def send(self, frame: bytes) -> None:
        """See `Socket`."""
        self._put(bytes(frame), self._far.take)
        await self._out.until_room()

    async def receive(self) -> bytes | None:
        """See `Socket`."""
        if self._is_over and self._inbox.empty():
            return None
        return await self._inbox.get()

    async def ping(self) -> None:
        """See `Socket`."""
        self._put(b"", self._far.take_ping)
        await self._out.until_room()

    def num_unsent_bytes(self) -> int:
        """See `Socket`."""
        return self._out.num_unsent_bytes()

    def window(self) -> Window:
        """See `Socket`; it has no window, but its sender waits."""
        return Window(UNKNOWN_BYTES, self._out.num_unsent_bytes())

    def progress(self) -> Progress:
        """See `Socket`."""
        return Progress(
            num_received=self._back.num_arrived_bytes(),
            num_delivered=self._out.num_arrived_bytes(),
            num_written=self._num_written,
        )

    async def close(self) -> None:
        """See `Socket`."""
        self.abort()

    def abort(self) -> None:
        """See `Socket`; what is under way arrives before the end does."""
        if not self._is_over:
            self._put(b"", lambda _: self._far.end())
            self.end()

    def end(self) -> None:
        """The connection is over here: what has come can be read, and nothing more comes."""
        if not self._is_over:
            self._is_over = True
            self._inbox.put_nowait(None)

    def cut(self) -> None:
        """Both ends learn at once that it is gone; what is under way does not arrive."""
        self.end()
        self._far.end()

    def take(self, frame: bytes) -> None:
        """A frame has arrived."""
        if not self._is_over:
            self._inbox.put_nowait(frame)

    def take_ping(self, ping: bytes) -> None:
        """A ping has arrived; that its answer has arrived, the way knows."""
        if not self._is_over:
            self._put(ping, lambda _: None)

    def _put(self, frame: bytes, arrive: Callable[[bytes], None]) -> None:
        if self._is_over:
            raise ConnectionResetError("the socket is closed")
        self._num_written += way_bytes(frame)
        self._out.carry(frame, arrive)


def memory_pair(there: Way, back: Way) -> tuple[MemorySocket, MemorySocket]:
    """Two ends; what the first sends goes `there`, and what the second sends comes `back`."""
    first, second = MemorySocket(there, back), MemorySocket(back, there)
    first.join(second)
    second.join(first)
    return first, second

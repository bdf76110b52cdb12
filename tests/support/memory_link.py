"""A network in memory between a link and a cloud, for waiting that takes no time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from device_runtime.engines.engine import DeviceEngine
from process.sockets.memory import Direct, MemorySocket, memory_pair
from wire.codec import decode
from wire.messages import Message

T = TypeVar("T")

Passes = Callable[[bool, bytes], Sequence[bytes]]
"""Which frames the other end gets for one that is sent: perhaps none, or one of long ago."""


CALL_S = 0.01
"""What a call on a device's engine takes, if nothing else is said."""


class _FaultyWay(Direct):
    """A direction of a `MemoryNetwork`."""

    def __init__(self, network: "MemoryNetwork", is_up: bool) -> None:
        super().__init__()
        self._network = network
        self._is_up = is_up
        self._number = network.num_dials - 1

    def carry(self, frame: bytes, arrive: Callable[[bytes], None]) -> None:
        network = self._network
        delay_s = network.delay_s(self._number)
        if delay_s:
            loop, now = asyncio.get_running_loop(), arrive
            arrive = lambda each: loop.call_later(delay_s, now, each)  # noqa: E731
        if frame:
            (network.up if self._is_up else network.down).append(frame)
        passed = network.passes(self._is_up, frame) if frame else [frame]
        network.num_pings += not frame and self._is_up
        for each in () if network.is_silent else passed:
            super().carry(each, arrive)


class MemoryNetwork:
    """Between one link and one cloud. `is_silent` loses all that is sent; `fails` all attempts."""

    def __init__(self, cloud: Any) -> None:
        self.cloud = cloud
        """Who is reached by the next attempt."""
        self._ends: list[MemorySocket] = []
        self.is_silent = False
        self.fails: Exception | None = None
        self.hangs = False
        self.delay_s: Callable[[int], float] = lambda number: 0.0
        """What frames take on the connection of each attempt, which are numbered from 0."""
        self.passes: Passes = lambda is_up, frame: [frame]
        self.up: list[bytes] = []
        self.down: list[bytes] = []
        """All frames that were sent."""
        self.num_pings = 0
        self.num_dials = 0

    @contextlib.asynccontextmanager
    async def dial(self) -> AsyncIterator[MemorySocket]:
        """A connection, as a `Dial` gives it."""
        self.num_dials += 1
        if self.fails is not None:
            raise self.fails
        if self.hangs:
            await asyncio.Event().wait()
        device, far = memory_pair(_FaultyWay(self, True), _FaultyWay(self, False))
        self._ends += [device, far]
        serving = asyncio.create_task(self._serve(far))
        try:
            yield device
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    def swallow(self, should: Callable[[Message], bool]) -> None:
        """Lose some messages from here on."""
        self.passes = lambda is_up, frame: [] if should(decode(frame)) else [frame]

    def cut_one(self, number: int) -> None:
        """Close the connection of this attempt, if it is there."""
        if 2 * number < len(self._ends):
            self._ends[2 * number].cut()

    def cut(self) -> None:
        """Close every connection; both ends learn of it at once."""
        for end in self._ends:
            end.end()
        self._ends.clear()

    async def _serve(self, far: MemorySocket) -> None:
        await self.cloud.serve(far)
        await far.close()


class InlineWorkers:
    """See `Workers`; a call takes `seconds`."""

    def __init__(self, engine: DeviceEngine, seconds: float = CALL_S) -> None:
        self.engine = engine
        self._seconds = seconds

    async def run(self, call: Callable[[DeviceEngine], T]) -> T:
        """The result, after a while."""
        result = call(self.engine)
        await asyncio.sleep(self._seconds)
        return result

    def run_later(self, call: Callable[[DeviceEngine], None]) -> None:
        """At once, as nobody waits."""
        call(self.engine)

    def close(self) -> None:
        """Nothing is left to end."""

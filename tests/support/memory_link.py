"""WebSockets in memory between a link and a fake cloud, for waiting that takes no time.

Pings are answered by the far end's socket, as they are by a process that lives while it computes.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from aiohttp import WSMessage, WSMsgType

from device_runtime.config import DeviceConfig
from device_runtime.engines.engine import DeviceEngine
from device_runtime.link.config import Patience
from device_runtime.link.link import Link
from device_runtime.runtime.runtime import Runtime
from tests.support.fake_cloud import FakeCloud
from tests.support.fake_model import FakeDeviceEngine
from tests.support.fake_runtime import KEEP_NONE, Bench
from wire.codec import decode
from wire.messages import Message

T = TypeVar("T")

Passes = Callable[[bool, bytes], Sequence[bytes]]
"""Which frames the other end gets for one that is sent: perhaps none, or one of long ago."""

_CLOSED = WSMessage(WSMsgType.CLOSED, None, None)


class MemorySocket:
    """One end; what is sent to a broken network is gone."""

    def __init__(self, network: "MemoryNetwork", is_device: bool) -> None:
        self._network = network
        self._is_device = is_device
        self._inbox: asyncio.Queue[WSMessage] = asyncio.Queue()
        self._writer = SimpleNamespace(transport=None)
        self.peer: MemorySocket

    def get_extra_info(self, name: str) -> None:
        """There is no socket below."""

    async def send_bytes(self, frame: bytes) -> None:
        """A binary frame, as often as the network passes it on."""
        self.give(bytes(frame))

    def give(self, frame: bytes) -> None:
        """The same, at once."""
        for passed in self._network.passes(self._is_device, frame):
            self._give(WSMsgType.BINARY, passed)

    async def ping(self) -> None:
        """Answered by the other end at once."""
        self._network.num_pings += 1
        if self._network.is_silent:
            return
        self._inbox.put_nowait(WSMessage(WSMsgType.PONG, b"", None))

    async def receive(self) -> WSMessage:
        """What came next; only the end of a connection is ever repeated."""
        message = await self._inbox.get()
        if message is _CLOSED:
            self._inbox.put_nowait(_CLOSED)
        return message

    async def close(self) -> None:
        """Both ends learn of it."""
        self.end()

    def end(self) -> None:
        """The same, at once."""
        for end in (self, self.peer):
            end._inbox.put_nowait(_CLOSED)

    def __aiter__(self) -> "MemorySocket":
        return self

    async def __anext__(self) -> WSMessage:
        message = await self.receive()
        if message is _CLOSED:
            raise StopAsyncIteration
        return message

    def _give(self, kind: WSMsgType, data: bytes) -> None:
        if not self._network.is_silent:
            self.peer._inbox.put_nowait(WSMessage(kind, data, None))


class MemoryNetwork:
    """Between one link and one cloud. `is_silent` loses all that is sent; `fails` all attempts."""

    def __init__(self, cloud: Any) -> None:
        self._cloud = cloud
        self._sockets: list[MemorySocket] = []
        self.is_silent = False
        self.fails: Exception | None = None
        self.hangs = False
        self.passes: Passes = lambda is_up, frame: [frame]
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
        device, far = MemorySocket(self, True), MemorySocket(self, False)
        device.peer, far.peer = far, device
        self._sockets.append(device)
        serving = asyncio.create_task(self._serve(far))
        try:
            yield device
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    def swallow(self, should: Callable[[Message], bool]) -> None:
        """Lose some messages from here on."""
        self.passes = lambda is_up, frame: [] if should(decode(frame)) else [frame]

    async def cut(self) -> None:
        """Close every connection."""
        self.end()

    def end(self) -> None:
        """The same, at once."""
        for socket in self._sockets:
            socket.end()
        self._sockets.clear()

    async def _serve(self, far: MemorySocket) -> None:
        await self._cloud.serve(far)
        await far.close()


class InlineEngine:
    """An engine's thread without a thread; a call takes `seconds`."""

    def __init__(self, engine: DeviceEngine, seconds: float = 0.01) -> None:
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


@contextlib.asynccontextmanager
async def memory_bench(
    cloud: Any = None, **settings: Any
) -> AsyncIterator[tuple[Bench, MemoryNetwork]]:
    """A connected runtime over a network in memory, all of it on the loop's own clock."""
    clock = asyncio.get_running_loop().time
    randomness = random.Random(0)
    cloud = cloud or FakeCloud()
    network = MemoryNetwork(cloud)
    engine = FakeDeviceEngine()
    patience = settings.pop("patience", Patience())
    link = Link(
        cloud.config(url="ws://cloud", patience=patience),
        clock,
        randomness,
        dial=network.dial,
    )
    config = DeviceConfig(bundle=Path("unused"), **settings)
    runtime = Runtime(InlineEngine(engine), link, config, clock, randomness, KEEP_NONE)
    runtime.start()
    try:
        await link.connected()
        yield Bench(runtime, cloud, engine, link), network
    finally:
        await runtime.close()

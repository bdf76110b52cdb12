"""A TCP relay in front of a cloud that fails on cue, in the middle of a frame if need be."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_NO_LINGER = struct.pack("ii", 1, 0)
_READ_BYTES = 4096


class BrokenLink:
    """Passes bytes both ways, counts them, and strikes when told.

    A reset is a real one (RST); a cut holds all bytes back until the link is mended.
    """

    def __init__(self, target_port: int) -> None:
        self.num_bytes = 0
        self.port = 0
        self._target_port = target_port
        self._strikes: list[tuple[int, Callable[[], None]]] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def url(self) -> str:
        """What a device connects to."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def num_strikes_left(self) -> int:
        """Strikes whose moment has not come."""
        return len(self._strikes)

    def strike_after(self, num_bytes: int, strike: Callable[[], None]) -> None:
        """Have something happen once so many more bytes have passed, both ways together."""
        self._strikes.append((self.num_bytes + num_bytes, strike))
        self._strikes.sort(key=lambda each: each[0])

    def forget_strikes(self) -> None:
        """Let all be calm from here on."""
        self._strikes.clear()

    def reset(self) -> None:
        """Reset every connection; new ones are passed on."""
        for writer in list(self._writers):
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):  # closed already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            writer.transport.abort()

    def point_at(self, target_port: int) -> None:
        """Carry connections to come to another port, as a balancer may."""
        self._target_port = target_port

    def cut(self) -> None:
        """Hold everything back, connections to come included."""
        self._flowing.clear()

    def mend(self) -> None:
        """Let what was held back flow."""
        self._flowing.set()

    async def up(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def down(self) -> None:
        """Be unreachable: every connection reset, new ones refused."""
        if self._server is not None:
            self._server.close()
        self.reset()

    async def stop(self) -> None:
        """End for good."""
        self.down()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._writers.add(far)
            pumps = (self._pump(reader, far), self._pump(far_reader, writer))
            tasks = [asyncio.ensure_future(pump) for pump in pumps]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in tasks:
                    each.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in (writer, far):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()
            self._pumps.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_READ_BYTES):
            await self._flowing.wait()
            while self._strikes and self.num_bytes + len(data) >= self._strikes[0][0]:
                moment, strike = self._strikes.pop(0)
                num_before = max(0, moment - self.num_bytes)
                writer.write(data[:num_before])
                self.num_bytes += num_before
                data = data[num_before:]
                await writer.drain()
                strike()
                await self._flowing.wait()
            self.num_bytes += len(data)
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def broken_link(target_port: int) -> AsyncIterator[BrokenLink]:
    """A relay on a free port, calm until told otherwise."""
    link = BrokenLink(target_port)
    await link.up()
    try:
        yield link
    finally:
        await link.stop()

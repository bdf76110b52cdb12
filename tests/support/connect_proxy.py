"""An HTTP proxy that gives tunnels, all of them to one port of this machine."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class ConnectProxy:
    """`asked` holds the heads of the requests; `answer` is said instead of giving a tunnel."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.asked: list[str] = []
        self.answer: bytes | None = None
        self.is_silent = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["ConnectProxy"]:
        """Listen on a free port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, device: asyncio.StreamReader, to_device: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            self.asked.append((await device.readuntil(b"\r\n\r\n")).decode())
            if self.is_silent:
                await device.read()
            elif self.answer is not None:
                to_device.write(self.answer)
            else:
                cloud, to_cloud = await asyncio.open_connection("127.0.0.1", self.target_port)
                to_device.write(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
                await asyncio.gather(_pump(device, to_cloud), _pump(cloud, to_device))
        to_device.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(4096):
            target.write(data)
            await target.drain()
    target.close()

"""A TCP relay in front of a cloud with an uplink of a given rate, which may change on the way."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_READ_BYTES = 1024
_BUFFER_BYTES = 4096
_SHORT_S = 0.001
"""Loops sleep no shorter than about this; what is less is made up for by the next bytes."""


class ThinLink:
    """Passes bytes up at `bytes_per_s` and down at once."""

    def __init__(self, target_port: int, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.num_bytes_up = 0
        self.port = 0
        self._target_port = target_port
        self._change: tuple[int, float] | None = None
        self._server: asyncio.Server | None = None
        self._free_s = 0.0

    @property
    def url(self) -> str:
        """What a device connects to."""
        return f"ws://127.0.0.1:{self.port}"

    def change_after(self, num_bytes: int, bytes_per_s: float) -> None:
        """Have another rate once so many more bytes have gone up."""
        self._change = (self.num_bytes_up + num_bytes, bytes_per_s)

    async def start(self) -> None:
        """Listen on a free port."""
        listener = socket.create_server(("127.0.0.1", 0))
        # Small buffers, or the kernel would take a prompt whole.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=_BUFFER_BYTES)

    async def stop(self) -> None:
        """Listen no more; what is connected ends with its sides."""
        assert self._server is not None, "it was started"
        self._server.close()

    async def _serve(self, device: asyncio.StreamReader, to_device: asyncio.StreamWriter) -> None:
        cloud, to_cloud = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            await asyncio.gather(self._up(device, to_cloud), self._down(cloud, to_device))
        except ConnectionError:
            pass
        finally:
            to_cloud.close()
            to_device.close()

    async def _up(self, device: asyncio.StreamReader, to_cloud: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        while data := await device.read(_READ_BYTES):
            self._free_s = max(self._free_s, clock()) + len(data) / self.bytes_per_s
            if (early_s := self._free_s - clock()) > _SHORT_S:
                await asyncio.sleep(early_s)
            to_cloud.write(data)
            await to_cloud.drain()
            self.num_bytes_up += len(data)
            if self._change is not None and self.num_bytes_up >= self._change[0]:
                self.bytes_per_s = self._change[1]
                self._change = None
        to_cloud.close()

    async def _down(self, cloud: asyncio.StreamReader, to_device: asyncio.StreamWriter) -> None:
        while data := await cloud.read(_READ_BYTES):
            to_device.write(data)
            await to_device.drain()
        to_device.close()


@asynccontextmanager
async def thin_link(target_port: int, bytes_per_s: float) -> AsyncIterator[ThinLink]:
    """A relay in front of a cloud on this machine."""
    link = ThinLink(target_port, bytes_per_s)
    await link.start()
    try:
        yield link
    finally:
        await link.stop()

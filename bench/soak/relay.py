"""A way between device and cloud that can be cut, or swallow what is sent, for a while."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

_CHUNK_BYTES = 65_536
_LOOK_S = 0.05
_RESETS = struct.pack("ii", 1, 0)
"""A socket that lingers for no time is reset when it is closed."""


class Relay:
    """Carries TCP connections to one port. `port` is where it listens."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.is_hole = False
        """Whether what is sent either way is swallowed; the connections stay."""

    async def start(self) -> None:
        """Listen on a free port of this machine."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        writers = list(self._writers)
        for writer in writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
            writer.transport.abort()
        return len(writers)

    async def close(self) -> None:
        """Carry nothing any more."""
        if self._server is not None:
            self._server.close()
        self.cut()
        while self._writers:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            ways = (self._pass_on(reader, far_writer), self._pass_on(far_reader, writer))
            async with self._held(writer), self._held(far_writer):
                await asyncio.gather(*ways)
        writer.transport.abort()

    @contextlib.asynccontextmanager
    async def _held(self, writer: asyncio.StreamWriter) -> AsyncIterator[None]:
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if not self.is_hole:
                    writer.write(data)
                    await writer.drain()
        writer.close()

"""The WebSocket below a connection: bytes up, bytes down, and whether the far end still lives."""

import asyncio
import contextlib
from collections.abc import Callable

import aiohttp

from process.heartbeat import Heartbeat
from process.socket_progress import keep_unsent_short
from wire.errors import FaultCode, RemoteProtocolError

WebSocket = aiohttp.ClientWebSocketResponse[bool]

_UNSENT_BYTES = 65_536

CLOSE_S = 2.0


class LostError(Exception):
    """The socket closed, or its far end fell silent; the words say which."""


class LinkSocket:
    """Owned by one connection, which reads it in one task and writes it in another.

    A far end that is silent for `silence_s` is lost. `clock` is monotonic, in seconds.
    """

    def __init__(self, ws: WebSocket, silence_s: float, clock: Callable[[], float]) -> None:
        self._ws = ws
        self._silence_s = silence_s
        self._transport = ws._writer.transport
        sock = ws.get_extra_info("socket")
        self._heartbeat = Heartbeat(self._transport, sock, ws.ping, clock)
        self._answers: set[asyncio.Task[None]] = set()
        if sock is not None:
            keep_unsent_short(sock, _UNSENT_BYTES)

    async def send(self, frame: bytes) -> None:
        """Write a frame, and wait while the socket is congested.

        Raises:
            LostError: it is closed.
        """
        self._heartbeat.wrote(len(frame))
        try:
            await self._ws.send_bytes(frame)
        except (ConnectionError, aiohttp.ClientError) as error:
            raise LostError("the connection broke") from error

    async def receive(self) -> bytes:
        """The next binary frame.

        Raises:
            LostError: the socket is closed.
            RemoteProtocolError: a text frame came.
        """
        while True:
            packet = await self._ws.receive()
            self._heartbeat.heard()
            match packet.type:
                case aiohttp.WSMsgType.BINARY:
                    return bytes(packet.data)
                case aiohttp.WSMsgType.PING:
                    self._answer(packet.data)
                case aiohttp.WSMsgType.PONG:
                    pass
                case aiohttp.WSMsgType.TEXT:
                    reason = "expected a binary frame, got text"
                    raise RemoteProtocolError(FaultCode.BAD_FRAME, reason)
                case aiohttp.WSMsgType.ERROR:
                    raise LostError("the connection broke")
                case _:
                    raise LostError("it closed the connection")

    async def watch(self) -> None:
        """Ask the far end for a sign of life when it is silent.

        Raises:
            LostError: it gave none; never returns.
        """
        await self._heartbeat.until_silent(self._silence_s)
        # What waits to be written would keep the socket open for many minutes.
        if self._transport is not None:
            self._transport.abort()
        raise LostError(f"nothing came from it for {self._silence_s:g} s")

    async def close(self) -> None:
        """Say goodbye, for a moment at most; then the socket is closed."""
        for answer in self._answers:
            answer.cancel()
        with contextlib.suppress(TimeoutError, ConnectionError, aiohttp.ClientError):
            async with asyncio.timeout(CLOSE_S):
                await self._ws.close()

    def _answer(self, ping: bytes) -> None:
        """Write a pong, which waits for no congestion: whoever reads must not."""

        async def written() -> None:
            # That the socket is closed, the reader tells.
            with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                await self._ws.pong(ping)

        task = asyncio.create_task(written())
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

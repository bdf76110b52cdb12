"""A `Socket` that is one of aiohttp's WebSockets, a client's or a server's."""

import asyncio
import contextlib

import aiohttp
from aiohttp import WSMsgType, web

from process.sockets.congestion import congestion_control
from process.sockets.pulse import Progress
from process.sockets.socket import HEADER_BYTES, BrokenSocketError
from process.sockets.tcp import (
    SentSegments,
    num_received_bytes,
    num_unacknowledged_bytes,
    send_window,
    sent_segments,
)
from process.sockets.windows import UNKNOWN_BYTES, Window

WebSocket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse[bool]


class AiohttpSocket:
    """See `Socket`. Pings that aiohttp does not answer itself are answered here."""

    def __init__(self, ws: WebSocket, transport: asyncio.Transport | None) -> None:
        self._ws = ws
        self._transport = transport
        self._sock = None if transport is None else transport.get_extra_info("socket")
        self._num_written = 0
        self._num_heard = 0
        self._answers: set[asyncio.Task[None]] = set()

    async def send(self, frame: bytes) -> None:
        """See `Socket`."""
        self._num_written += len(frame) + HEADER_BYTES
        try:
            await self._ws.send_bytes(frame)
        except aiohttp.ClientError as error:
            raise ConnectionResetError(str(error)) from error

    async def receive(self) -> bytes | str | None:
        """See `Socket`."""
        while True:
            packet = await self._ws.receive()
            self._num_heard += 1
            match packet.type:
                case WSMsgType.BINARY:
                    return bytes(packet.data)
                case WSMsgType.TEXT:
                    return str(packet.data)
                case WSMsgType.PING:
                    self._answer(packet.data)
                case WSMsgType.PONG:
                    pass
                case WSMsgType.ERROR:
                    raise BrokenSocketError(str(packet.data))
                case _:
                    return None

    async def ping(self) -> None:
        """See `Socket`."""
        self._num_written += HEADER_BYTES
        try:
            await self._ws.ping()
        except aiohttp.ClientError as error:
            raise ConnectionResetError(str(error)) from error

    def num_unsent_bytes(self) -> int:
        """See `Socket`."""
        if self._transport is None or self._transport.is_closing():
            return 0
        return self._transport.get_write_buffer_size()

    def window(self) -> Window:
        """See `Socket`."""
        num_unsent = self.num_unsent_bytes()
        if self._sock is None:
            return Window(UNKNOWN_BYTES, num_unsent)
        return send_window(self._sock, num_unsent)

    def progress(self) -> Progress:
        """See `Socket`; by the byte where the system tells, else what has come by the frame."""
        num_received = None if self._sock is None else num_received_bytes(self._sock)
        num_waiting = 0 if self._sock is None else num_unacknowledged_bytes(self._sock)
        num_waiting += self.num_unsent_bytes()
        return Progress(
            num_received=self._num_heard if num_received is None else num_received,
            num_delivered=max(0, self._num_written - num_waiting),
            num_written=self._num_written,
        )

    def congestion_control(self) -> str | None:
        """Its name; None where the system does not tell."""
        return None if self._sock is None else congestion_control(self._sock)

    def sent_segments(self) -> SentSegments | None:
        """Segments sent and sent again; None where the system does not tell."""
        return None if self._sock is None else sent_segments(self._sock)

    async def close(self) -> None:
        """See `Socket`."""
        for answer in self._answers:
            answer.cancel()
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            await self._ws.close()

    def abort(self) -> None:
        """See `Socket`."""
        if self._transport is not None:
            self._transport.abort()

    def _answer(self, ping: bytes) -> None:
        """Write a pong, which waits for no congestion: whoever reads must not."""

        async def written() -> None:
            # That the socket is closed, the reader tells.
            with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                await self._ws.pong(ping)

        task = asyncio.create_task(written())
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

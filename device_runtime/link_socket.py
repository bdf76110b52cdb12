"""The WebSocket below a connection: bytes up, bytes down, and whether the far end still lives."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp

from device_runtime.pulse import LOOKS, Beat, Progress, Pulse
from device_runtime.socket_progress import (
    keep_unsent_short,
    num_received_bytes,
    num_unacknowledged_bytes,
)
from wire.errors import FaultCode, RemoteProtocolError

WebSocket = aiohttp.ClientWebSocketResponse[bool]

_UNSENT_BYTES = 65_536

_HEADER_BYTES = 14
"""The most that a WebSocket frame adds; a ping is no longer."""

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
        self._clock = clock
        self._sock = ws.get_extra_info("socket")
        self._num_written = 0
        self._num_packets = 0
        self._answers: set[asyncio.Task[None]] = set()
        if self._sock is not None:
            keep_unsent_short(self._sock, _UNSENT_BYTES)

    async def send(self, frame: bytes) -> None:
        """Write a frame, and wait while the socket is congested.

        Raises:
            LostError: it is closed.
        """
        self._num_written += len(frame) + _HEADER_BYTES
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
            self._num_packets += 1
            match packet.type:
                case aiohttp.WSMsgType.BINARY:
                    return bytes(packet.data)
                case aiohttp.WSMsgType.PING:
                    self._later(self._ws.pong(packet.data))
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
            LostError: it gave none; never returns otherwise.
        """
        pulse = Pulse(self._silence_s, self._clock())
        while True:
            await asyncio.sleep(self._silence_s / LOOKS)
            match pulse.look(self._progress(), self._clock()):
                case Beat.PING:
                    self._later(self._ping(pulse))
                case Beat.LOST:
                    # What waits to be written would keep the socket open for many minutes.
                    if (transport := self._ws._writer.transport) is not None:
                        transport.abort()
                    raise LostError(f"nothing came from it for {self._silence_s:g} s")
                case Beat.CALM:
                    pass

    async def close(self) -> None:
        """Say goodbye, for a moment at most; then the socket is closed."""
        for answer in self._answers:
            answer.cancel()
        with contextlib.suppress(TimeoutError, ConnectionError, aiohttp.ClientError):
            async with asyncio.timeout(CLOSE_S):
                await self._ws.close()

    async def _ping(self, pulse: Pulse) -> None:
        self._num_written += _HEADER_BYTES
        pulse.pinged(self._num_written)
        await self._ws.ping()

    def _later(self, call: Coroutine[Any, Any, None]) -> None:
        """Write a ping or a pong, which waits for no congestion: whoever reads must not."""

        async def written() -> None:
            # That the socket is closed, the reader tells.
            with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                await call

        task = asyncio.create_task(written())
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    def _progress(self) -> Progress:
        num_received = None if self._sock is None else num_received_bytes(self._sock)
        num_waiting = 0 if self._sock is None else num_unacknowledged_bytes(self._sock)
        transport = self._ws._writer.transport
        if transport is not None and not transport.is_closing():
            num_waiting += transport.get_write_buffer_size()
        received = self._num_packets if num_received is None else num_received
        return Progress(received, max(0, self._num_written - num_waiting))

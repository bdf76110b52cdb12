"""The socket below a connection: bytes up, bytes down, and whether the far end still lives."""

import asyncio
import contextlib

from process.sockets.heartbeat import until_silent
from process.sockets.socket import Socket
from process.world import Clock
from wire.errors import FaultCode, RemoteProtocolError

CLOSE_S = 2.0


class LostError(Exception):
    """The socket closed, or its far end fell silent; the words say which."""


class LinkSocket:
    """Owned by one connection, which reads it in one task and writes it in another.

    A far end that is silent for `silence_s` is lost. `clock` is monotonic, in seconds.
    """

    def __init__(self, socket: Socket, silence_s: float, clock: Clock) -> None:
        self._socket = socket
        self._silence_s = silence_s
        self._clock = clock

    async def send(self, frame: bytes) -> None:
        """Write a frame, and wait while the socket is congested.

        Raises:
            LostError: it is closed.
        """
        try:
            await self._socket.send(frame)
        except ConnectionError as error:
            raise LostError("the connection broke") from error

    async def receive(self) -> bytes:
        """The next binary frame.

        Raises:
            LostError: the socket is closed.
            RemoteProtocolError: a text frame came.
        """
        try:
            frame = await self._socket.receive()
        except ConnectionError as error:
            raise LostError("the connection broke") from error
        if frame is None:
            raise LostError("it closed the connection")
        if isinstance(frame, str):
            reason = "expected a binary frame, got text"
            raise RemoteProtocolError(FaultCode.BAD_FRAME, reason)
        return frame

    async def watch(self) -> None:
        """Ask the far end for a sign of life when it is silent.

        Raises:
            LostError: it gave none; never returns.
        """
        await until_silent(self._socket, self._silence_s, self._clock)
        # What waits to be written would keep the socket open for many minutes.
        self._socket.abort()
        raise LostError(f"nothing came from it for {self._silence_s:g} s")

    async def close(self) -> None:
        """Say goodbye, for a moment at most; then the socket is closed."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(CLOSE_S):
                await self._socket.close()

"""One device's stay, from its socket to its end: little is taken from it before its Hello."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cloud_server.core.actions import ConnectionId, Identity
from cloud_server.daemon.connection import Connection
from cloud_server.daemon.daemon import CloudDaemon
from cloud_server.daemon.reception import Reception
from cloud_server.daemon.turns import Turns, cost_s
from process.sockets.heartbeat import until_silent
from process.sockets.socket import BrokenSocketError, Socket
from process.sockets.tcp import TELLS_PROGRESS
from wire.errors import FaultCode
from wire.limits import MAX_HANDSHAKE_BYTES, MAX_LANE_MESSAGE_BYTES
from wire.messages import Fault

CLOSE_TIMEOUT_S = 2.0

# Stands for a frame that is too long for a handshake, and of which nothing was read.
_TOO_LONG = bytes(MAX_HANDSHAKE_BYTES + 1)


class Visitor(Protocol):
    """Who is on the socket, as far as the listener knows."""

    @property
    def begun_s(self) -> float:
        """When it came."""
        ...

    @property
    def identity(self) -> Identity:
        """Whose limits it counts against."""
        ...

    def prove(self, most_bytes: int | None = None) -> None:
        """It was welcomed: it may stay, and send longer messages, if only of so many bytes."""
        ...

    def say(self, reason: str) -> None:
        """Note why it was refused."""
        ...

    def on_too_large(self, tell: Callable[[], None]) -> None:
        """Have a call made if its first message is too long to be read."""
        ...


@dataclass(frozen=True, slots=True)
class Guest:
    """A `Visitor` on a socket that no listener guards, such as one in memory."""

    identity: Identity
    begun_s: float

    def prove(self, most_bytes: int | None = None) -> None:
        """Nothing was held back."""

    def say(self, reason: str) -> None:
        """Nobody notes it."""

    def on_too_large(self, tell: Callable[[], None]) -> None:
        """No message is too long to be read."""


class DeviceSocket:
    """Greets one device and reads what it sends; `Connection` writes."""

    def __init__(
        self,
        daemon: CloudDaemon,
        socket: Socket,
        visitor: Visitor,
        reception: Reception,
        turns: Turns,
    ) -> None:
        self._daemon = daemon
        self._socket = socket
        self._visitor = visitor
        self._reception = reception
        self._turns = turns
        self._clock = reception.clock
        self._is_greeted = False
        self._number = ConnectionId(0)

    async def serve(self) -> None:
        """Return when the device is gone."""
        connection = Connection(self._socket, self._daemon.send_limits, self)
        number = self._daemon.connect(connection, self._visitor.identity, self._visitor.begun_s)
        self._number = number
        self._visitor.on_too_large(lambda: self._daemon.receive(number, _TOO_LONG))
        watching = asyncio.create_task(self._watch(connection))
        try:
            # A pong may meet a socket that is gone; that is how devices leave.
            with contextlib.suppress(ConnectionError):
                await self._read()
        finally:
            watching.cancel()
            self._daemon.disconnect(number)
            self._note_end()
            await connection.end(CLOSE_TIMEOUT_S)

    def greeted(self, is_lane: bool) -> None:
        """The core has welcomed the device, or joined the socket to its first one."""
        self._visitor.prove(MAX_LANE_MESSAGE_BYTES if is_lane else None)
        if is_lane:
            self._turns.help()
            return
        self._is_greeted = True
        self._note("a device at %s")

    def refused(self, fault: Fault) -> None:
        """The core has ended the connection, before or after the device was welcomed."""
        if fault.code is FaultCode.BAD_CREDENTIAL:
            self._reception.wrong_secrets.note(self._visitor.identity, self._clock())
        self._visitor.say(f"{fault.code.name} ({fault.message})")

    async def _read(self) -> None:
        is_first = True
        while (frame := await self._next_frame()) is not None:
            if is_first:
                is_first = False
                if not self._reception.knows(frame):
                    await self._wait_for_wrong_secrets()
            came_s = self._clock()
            unpacked = await self._daemon.unpacked(self._number, frame)
            begun_s = self._clock()
            self._daemon.receive(self._number, frame, unpacked, came_s)
            await self._turns.take(cost_s(frame, self._clock() - begun_s))

    async def _next_frame(self) -> bytes | str | None:
        try:
            return await self._socket.receive()
        except BrokenSocketError as error:
            self._visitor.say(f"it broke the WebSocket protocol ({error})")
            return None

    async def _watch(self, connection: Connection) -> None:
        """End the connection of a device that fell silent."""
        if not TELLS_PROGRESS:
            return
        await until_silent(self._socket, self._daemon.silence_s, self._clock)
        if self._is_greeted:
            self._note("the device at %s is silent")
        connection.abort()

    async def _wait_for_wrong_secrets(self) -> None:
        wrong_secrets = self._reception.wrong_secrets
        delay_s = wrong_secrets.delay_s(self._visitor.identity, self._clock())
        if delay_s:
            await asyncio.sleep(delay_s)

    def _note_end(self) -> None:
        if self._is_greeted:
            self._note("the device at %s left")

    def _note(self, what: str) -> None:
        self._reception.visits.say(
            logging.INFO, f"connection %d: {what}", self._number, self._visitor.identity
        )

"""One device's stay, from its socket to its end: little is taken from it before its Hello."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cloud_server.core.actions import ConnectionId, Identity
from cloud_server.core.names.people import Person
from cloud_server.daemon.connection import Connection
from cloud_server.daemon.daemon import CloudDaemon
from cloud_server.daemon.reception import Reception
from cloud_server.daemon.turns import OVER_QUOTA_S, Turns, cost_s
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
        """Its address: whose limits it counts against until it has shown a name."""
        ...

    @property
    def certificate(self) -> str | None:
        """The name of the certificate that it has shown."""
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
    certificate: str | None = None

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
        self._whose = ""
        self._named: Identity | None = None
        """Whom it shows to be, from its first frame on."""
        self._over_quota_s = 0.0
        """What is to be counted for refusals by quotas."""

    async def serve(self) -> None:
        """Return when the device is gone."""
        connection = Connection(self._socket, self._daemon.send_limits, self)
        visitor = self._visitor
        number = self._daemon.connect(
            connection, visitor.identity, visitor.begun_s, visitor.certificate
        )
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

    def greeted(self, is_lane: bool, person: Person) -> None:
        """The core has welcomed the device, or joined the socket to its first one."""
        self._turns.belong_to(person.identity_at(self._visitor.identity))
        self._whose = f" of {person.name}" if person.is_named else ""
        self._visitor.prove(MAX_LANE_MESSAGE_BYTES if is_lane else None)
        if is_lane:
            self._turns.help()
            return
        self._is_greeted = True
        self._note("a device%s at %s")

    @property
    def where(self) -> str:
        """See `Host`."""
        return f"{self._whose} at {self._visitor.identity}"

    def limited(self) -> None:
        """A quota has refused the device something."""
        self._over_quota_s += OVER_QUOTA_S
        self._turns.limited()

    def refused(self, fault: Fault) -> None:
        """The core has ended the connection, before or after the device was welcomed."""
        if fault.code is FaultCode.BAD_CREDENTIAL:
            self._reception.wrong_secrets.note(self._visitor.identity, self._clock())
        if fault.code is FaultCode.QUOTA and self._named is not None:
            self._reception.full_names.note(self._named, self._clock())
        self._visitor.say(f"{fault.code.name} ({fault.message})")

    async def _read(self) -> None:
        is_first = True
        while (frame := await self._next_frame()) is not None:
            if is_first:
                is_first = False
                await self._wait_at_the_door(frame)
            came_s = self._clock()
            unpacked = await self._daemon.unpacked(self._number, frame)
            begun_s = self._clock()
            self._daemon.receive(self._number, frame, unpacked, came_s)
            over_quota_s, self._over_quota_s = self._over_quota_s, 0.0
            await self._turns.take(cost_s(frame, self._clock() - begun_s) + over_quota_s)

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
            self._note("the device%s at %s is silent")
        connection.abort()

    async def _wait_at_the_door(self, frame: bytes | str) -> None:
        """Let who shows nothing that lets him in wait for the wrong ones of his address, and a name
        for its connections that were too many. Nobody else waits."""
        person, address = self._daemon.who_shows(self._number, frame), self._visitor.identity
        delays = self._reception.wrong_secrets
        if person is not None:
            delays, self._named = self._reception.full_names, person.identity_at(address)
        delay_s = delays.delay_s(self._named or address, self._clock())
        if delay_s:
            await asyncio.sleep(delay_s)

    def _note_end(self) -> None:
        if self._is_greeted:
            self._note("the device%s at %s left")

    def _note(self, what: str) -> None:
        self._reception.visits.say(
            logging.INFO,
            f"connection %d: {what}",
            self._number,
            self._whose,
            self._visitor.identity,
        )

"""One device's WebSocket, from its upgrade to its end: little is taken from it before its Hello."""

import asyncio
import contextlib
import logging
import time

from aiohttp import WSMsgType, web

from cloud_server.core.actions import ConnectionId, Identity
from cloud_server.daemon.connection import Connection
from cloud_server.daemon.daemon import CloudDaemon
from cloud_server.daemon.reception import Reception
from cloud_server.daemon.turns import PING_S, Turns, cost_s
from process.heartbeat import Heartbeat
from process.listening.handler import GuardedHandler
from process.listening.runner import handler_of
from process.listening.threshold import Threshold
from process.socket_progress import TELLS_PROGRESS
from wire.errors import FaultCode
from wire.limits import MAX_HANDSHAKE_BYTES
from wire.messages import Fault

HELLO_GRACE_S = 2.0
"""After the core's own deadline for a Hello, which is looked at once a second, and says why."""

CLOSE_TIMEOUT_S = 2.0

_OWN_HEARTBEAT_S = 60.0
"""Where the system does not tell what has come; a ping may wait behind a long reply."""

# Stands for a frame that is too long for a handshake, and of which nothing was read.
_TOO_LONG = bytes(MAX_HANDSHAKE_BYTES + 1)


class DeviceSocket:
    """Greets one device and reads what it sends; `Connection` writes."""

    def __init__(self, daemon: CloudDaemon, request: web.Request, reception: Reception) -> None:
        self._daemon = daemon
        self._request = request
        self._reception = reception
        self._loop = asyncio.get_running_loop()
        self._handler: GuardedHandler = handler_of(request)
        visit = self._handler.visit
        assert visit is not None
        self._begun_s = visit.begun_s
        self._identity = Identity(visit.address or visit.host)
        self._threshold: Threshold | None = None
        self._is_greeted = False
        self._number = ConnectionId(0)

    async def serve(self) -> web.StreamResponse:
        """The device's stay."""
        deadline_s = self._reception.hello_timeout_s + HELLO_GRACE_S
        self._threshold = self._handler.hold_back(MAX_HANDSHAKE_BYTES)
        self._handler.doubt(self._begun_s + deadline_s)
        turns = Turns(self._reception.shares, self._identity)
        try:
            return await self._serve(turns)
        finally:
            turns.end()

    async def _serve(self, turns: Turns) -> web.StreamResponse:
        assert self._threshold is not None
        socket = _Socket(
            turns,
            compress=False,
            heartbeat=None if TELLS_PROGRESS else _OWN_HEARTBEAT_S,
            timeout=CLOSE_TIMEOUT_S,
            # A frame somewhat too long gets a Fault; beyond twice the limit nothing is read.
            max_msg_size=2 * self._daemon.max_frame_bytes,
        )
        try:
            await socket.prepare(self._request)
        except ConnectionError:
            # It was gone before it had its answer.
            return web.Response(status=400)
        transport = self._request.transport
        if transport is None:
            return socket
        connection = Connection(socket, transport, self._daemon.send_limits, self)
        number = self._daemon.connect(connection, self._identity, self._begun_s)
        self._number = number
        self._threshold.on_too_large = lambda: self._daemon.receive(number, _TOO_LONG)
        if self._threshold.is_too_large:
            self._threshold.on_too_large()
        sock = transport.get_extra_info("socket")
        heartbeat = Heartbeat(transport, sock, socket.ping, self._loop.time)
        connection.on_write = heartbeat.wrote
        watching = self._loop.create_task(self._watch(connection, heartbeat))
        try:
            # A pong may meet a socket that is gone; that is how devices leave.
            with contextlib.suppress(ConnectionError):
                await self._read(socket, turns)
        finally:
            watching.cancel()
            self._daemon.disconnect(number)
            self._note_end()
            await connection.end(CLOSE_TIMEOUT_S)
        return socket

    def greeted(self) -> None:
        """The core has welcomed the device."""
        self._is_greeted = True
        self._handler.prove()
        if self._threshold is not None:
            self._threshold.open()
        self._reception.visits.say(
            logging.INFO, "connection %d: a device at %s", self._number, self._identity
        )

    def refused(self, fault: Fault) -> None:
        """The core has ended the connection, before or after the device was welcomed."""
        if fault.code is FaultCode.BAD_CREDENTIAL:
            self._reception.wrong_secrets.note(self._identity, self._loop.time())
        self._refuse(f"{fault.code.name} ({fault.message})")

    async def _read(self, socket: web.WebSocketResponse, turns: Turns) -> None:
        clock = time.perf_counter
        is_first = True
        async for message in socket:
            if message.type is WSMsgType.ERROR:
                self._refuse(f"it broke the WebSocket protocol ({message.data})")
                continue
            if is_first:
                is_first = False
                if not self._reception.knows(message.data):
                    await self._wait_for_wrong_secrets()
            begun_s = clock()
            self._daemon.receive(self._number, message.data)
            await turns.take(cost_s(message.data, clock() - begun_s))

    async def _watch(self, connection: Connection, heartbeat: Heartbeat) -> None:
        """End the connection of a device that fell silent."""
        if not TELLS_PROGRESS:
            return
        await heartbeat.until_silent(self._daemon.silence_s)
        self._reception.visits.say(
            logging.INFO, "connection %d: the device at %s is silent", self._number, self._identity
        )
        connection.abort()

    async def _wait_for_wrong_secrets(self) -> None:
        now = self._loop.time()
        delay_s = self._reception.wrong_secrets.delay_s(self._identity, now)
        if delay_s:
            await asyncio.sleep(delay_s)

    def _refuse(self, reason: str) -> None:
        visit = self._handler.visit
        if visit is not None:
            self._reception.guard.say(visit, reason)

    def _note_end(self) -> None:
        if self._is_greeted:
            self._reception.visits.say(
                logging.INFO, "connection %d: the device at %s left", self._number, self._identity
            )


class _Socket(web.WebSocketResponse):
    """Its pings take turns as well: aiohttp answers them without letting others in."""

    def __init__(self, turns: Turns, **options: float | bool | None) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._turns = turns

    async def pong(self, message: bytes = b"") -> None:
        """Answer a ping."""
        await self._turns.take(PING_S)
        await super().pong(message)

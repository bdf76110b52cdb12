"""From an HTTP request to a device's socket: the upgrade, and what the listener knows of it."""

import asyncio
from collections.abc import Callable

from aiohttp import web

from cloud_server.core.actions import Identity
from cloud_server.daemon.daemon import CloudDaemon
from cloud_server.daemon.device_socket import CLOSE_TIMEOUT_S, DeviceSocket
from cloud_server.daemon.reception import Reception
from cloud_server.daemon.turns import PING_S, Turns
from process.listening.runner import handler_of
from process.sockets.aiohttp_socket import AiohttpSocket
from process.sockets.tcp import TELLS_PROGRESS
from wire.limits import MAX_HANDSHAKE_BYTES

HELLO_GRACE_S = 2.0
"""After the core's own deadline for a Hello, which is looked at once a second, and says why."""

_OWN_HEARTBEAT_S = 60.0
"""Where the system does not tell what has come; a ping may wait behind a long reply."""


async def let_in(
    daemon: CloudDaemon, request: web.Request, reception: Reception
) -> web.StreamResponse:
    """A device's whole stay."""
    visitor = _Visitor(request, reception)
    turns = Turns(reception.shares, visitor.identity)
    ws = _WebSocket(
        turns,
        compress=False,
        heartbeat=None if TELLS_PROGRESS else _OWN_HEARTBEAT_S,
        timeout=CLOSE_TIMEOUT_S,
        # A frame somewhat too long gets a Fault; beyond twice the limit nothing is read.
        max_msg_size=2 * daemon.max_frame_bytes,
    )
    try:
        try:
            await ws.prepare(request)
        except ConnectionError:
            # It was gone before it had its answer.
            return web.Response(status=400)
        transport: asyncio.Transport | None = request.transport
        if transport is not None:
            socket = AiohttpSocket(ws, transport)
            await DeviceSocket(daemon, socket, visitor, reception, turns).serve()
    finally:
        turns.end()
    return ws


class _Visitor:
    """A request's connection, as the listener knows it; see `Visitor`."""

    def __init__(self, request: web.Request, reception: Reception) -> None:
        self._handler = handler_of(request)
        self._guard = reception.guard
        visit = self._handler.visit
        assert visit is not None
        self.begun_s = visit.begun_s
        self.identity = Identity(visit.address or visit.host)
        self._threshold = self._handler.hold_back(MAX_HANDSHAKE_BYTES)
        self._handler.doubt(visit.begun_s + reception.hello_timeout_s + HELLO_GRACE_S)

    def prove(self) -> None:
        """See `Visitor`."""
        self._handler.prove()
        self._threshold.open()

    def say(self, reason: str) -> None:
        """See `Visitor`."""
        if self._handler.visit is not None:
            self._guard.say(self._handler.visit, reason)

    def on_too_large(self, tell: Callable[[], None]) -> None:
        """See `Visitor`."""
        self._threshold.on_too_large = tell
        if self._threshold.is_too_large:
            tell()


class _WebSocket(web.WebSocketResponse):
    """Its pings take turns as well: aiohttp answers them without letting others in."""

    def __init__(self, turns: Turns, **options: float | bool | None) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._turns = turns

    async def pong(self, message: bytes = b"") -> None:
        """Answer a ping."""
        await self._turns.take(PING_S)
        await super().pong(message)

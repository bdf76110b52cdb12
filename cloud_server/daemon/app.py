"""The daemon's HTTP face: the devices' WebSocket, health and readiness."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from aiohttp import hdrs, web

from cloud_server.core.actions import Identity
from cloud_server.core.names.certificate import name_of_certificate
from cloud_server.daemon.bundle_desk import BundleDesk
from cloud_server.daemon.daemon import CloudDaemon
from cloud_server.daemon.device_socket import CLOSE_TIMEOUT_S, DeviceSocket
from cloud_server.daemon.metrics import Metrics
from cloud_server.daemon.reception import Reception
from cloud_server.daemon.turns import PING_S, Turns
from process.listening.runner import handler_of
from process.sockets.aiohttp_socket import AiohttpSocket
from process.sockets.congestion import choose_congestion_control
from process.sockets.tcp import TELLS_PROGRESS
from wire.handshake import LINK_PATH
from wire.limits import MAX_HANDSHAKE_BYTES

_HELLO_GRACE_S = 2.0
"""After the core's own deadline for a Hello, which is looked at once a second, and says why."""

_OWN_HEARTBEAT_S = 60.0
"""Where the system does not tell what has come; a ping may wait behind a long reply."""

_LOADING = "loading the model"
_BROKEN = "the engine fails every step"
_LOST = "the engine is lost and cannot be loaded"
_DRAINING = "draining: no new sessions"
_RESTARTING = "the engine was lost and is being loaded again"


class Serving(Protocol):
    """What the HTTP face asks of the server behind it."""

    metrics: Metrics
    reception: Reception
    desk: BundleDesk | None
    """Where devices fetch their bundle, if it is served."""

    @property
    def daemon(self) -> CloudDaemon | None:
        """The daemon, once the engine is loaded."""
        ...


def make_app(serving: Serving) -> web.Application:
    """The routes."""
    app = web.Application()
    desk = [] if serving.desk is None else serving.desk.routes()
    app.add_routes([web.get(LINK_PATH, _Face(serving).link), *probes(serving), *desk])
    return app


def probes(serving: Serving) -> list[web.RouteDef]:
    """The routes of those who start, stop and balance clouds; they tell nothing of devices."""
    face = _Face(serving)
    return [web.get("/health", face.health), web.get("/ready", face.ready)]


class _Face:
    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def link(self, request: web.Request) -> web.StreamResponse:
        """One device: frames to the daemon until the socket is gone."""
        _refuse_pages(request, self._serving.reception)
        daemon = self._serving.daemon
        if daemon is None or daemon.is_draining:
            reason = _LOADING if daemon is None else _DRAINING
            raise web.HTTPServiceUnavailable(text=reason, headers={"Retry-After": "1"})
        return await _let_in(daemon, request, self._serving.reception)

    async def health(self, request: web.Request) -> web.Response:
        """200 while a restart would not help."""
        daemon = self._serving.daemon
        if daemon is not None and daemon.is_broken:
            return web.Response(status=503, text=_LOST if daemon.is_given_up else _BROKEN)
        return web.Response(text="ok")

    async def ready(self, request: web.Request) -> web.Response:
        """200 while new sessions are welcome, else 503 and why not."""
        reason = self._not_ready()
        if reason is not None:
            return web.Response(status=503, text=reason)
        return web.Response(text="ready")

    def _not_ready(self) -> str | None:
        daemon = self._serving.daemon
        if daemon is None:
            return _LOADING
        if daemon.is_broken:
            return _LOST if daemon.is_given_up else _BROKEN
        if daemon.is_restarting:
            return _RESTARTING
        return _DRAINING if daemon.is_draining else None


def _refuse_pages(request: web.Request, reception: Reception) -> None:
    """Return for a device. Browsers let any page open a WebSocket, to this machine's ports too, and
    read what comes; they say which page it is, and devices are none.

    Raises:
        web.HTTPForbidden: a page asks.
    """
    if hdrs.ORIGIN not in request.headers:
        return
    visit = handler_of(request).visit
    if visit is not None:
        reception.guard.say(visit, "403, a web page asked for a link")
    raise web.HTTPForbidden(text="no web page is a device: expected no Origin, got one")


async def _let_in(
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
            _choose_congestion_control(transport, reception.congestion_control)
            socket = AiohttpSocket(ws, transport)
            await DeviceSocket(daemon, socket, visitor, reception, turns).serve()
    finally:
        turns.end()
    return ws


def _choose_congestion_control(transport: asyncio.Transport, name: str | None) -> None:
    """It was seen to be possible at the start; a connection that is gone by now needs none."""
    sock = transport.get_extra_info("socket")
    if name is not None and sock is not None:
        with contextlib.suppress(OSError):
            choose_congestion_control(sock, name)


class _Visitor:
    """A request's connection, as the listener knows it; see `Visitor`."""

    def __init__(self, request: web.Request, reception: Reception) -> None:
        self._handler = handler_of(request)
        self._guard = reception.guard
        visit = self._handler.visit
        assert visit is not None
        self.begun_s = visit.begun_s
        self.identity = Identity(visit.address or visit.host)
        self.certificate = name_of_certificate(request.get_extra_info("peercert"))
        self._threshold = self._handler.hold_back(MAX_HANDSHAKE_BYTES)
        self._handler.doubt(visit.begun_s + reception.hello_timeout_s + _HELLO_GRACE_S)

    def prove(self, most_bytes: int | None = None) -> None:
        """See `Visitor`."""
        self._handler.prove()
        self._threshold.open(most_bytes)

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

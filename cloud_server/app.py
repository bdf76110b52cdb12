"""The daemon's HTTP face: the devices' WebSocket, health, readiness and metrics."""

import asyncio
import logging
from typing import Protocol

from aiohttp import WSMsgType, web

from cloud_server.actions import Identity
from cloud_server.connection import Connection
from cloud_server.daemon import CloudDaemon
from cloud_server.metrics import Metrics
from wire.handshake import LINK_PATH

_log = logging.getLogger(__name__)

_HEARTBEAT_S = 60.0
"""A ping may wait behind a long reply on a thin link; half of this is the time for its answer."""

_CLOSE_TIMEOUT_S = 2.0


class Serving(Protocol):
    """What the HTTP face asks of the server behind it."""

    metrics: Metrics

    @property
    def daemon(self) -> CloudDaemon | None:
        """The daemon, once the engine is loaded."""
        ...


def make_app(serving: Serving) -> web.Application:
    """The routes."""
    face = _Face(serving)
    app = web.Application()
    app.add_routes(
        [
            web.get(LINK_PATH, face.link),
            web.get("/health", face.health),
            web.get("/ready", face.ready),
            web.get("/metrics", face.metrics),
        ]
    )
    return app


class _Face:
    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def link(self, request: web.Request) -> web.StreamResponse:
        """One device: frames to the daemon until the socket is gone."""
        daemon = self._serving.daemon
        if daemon is None or daemon.is_draining:
            reason = _LOADING if daemon is None else _DRAINING
            raise web.HTTPServiceUnavailable(text=reason, headers={"Retry-After": "1"})
        socket = web.WebSocketResponse(
            compress=False,
            heartbeat=_HEARTBEAT_S,
            timeout=_CLOSE_TIMEOUT_S,
            # A frame somewhat too long gets a Fault; beyond twice the limit nothing is read.
            max_msg_size=2 * daemon.max_frame_bytes,
        )
        await socket.prepare(request)
        if request.transport is None:
            return socket
        await _serve(daemon, socket, request.transport, Identity(request.remote or ""))
        return socket

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

    async def metrics(self, request: web.Request) -> web.Response:
        """The Prometheus page."""
        daemon = self._serving.daemon
        metrics = self._serving.metrics
        page = metrics.render(None if daemon is None else daemon.figures())
        return web.Response(body=page, headers={"Content-Type": metrics.content_type})

    def _not_ready(self) -> str | None:
        daemon = self._serving.daemon
        if daemon is None:
            return _LOADING
        if daemon.is_broken:
            return _LOST if daemon.is_given_up else _BROKEN
        if daemon.is_restarting:
            return _RESTARTING
        return _DRAINING if daemon.is_draining else None


_LOADING = "loading the model"
_BROKEN = "the engine fails every step"
_LOST = "the engine is lost and cannot be loaded"
_DRAINING = "draining: no new sessions"
_RESTARTING = "the engine was lost and is being loaded again"


async def _serve(
    daemon: CloudDaemon,
    socket: web.WebSocketResponse,
    transport: asyncio.Transport,
    identity: Identity,
) -> None:
    """Read one socket to its end."""
    connection = Connection(socket, transport, daemon.send_limits)
    number = daemon.connect(connection, identity)
    try:
        async for message in socket:
            if message.type is WSMsgType.ERROR:
                _log.info("connection %d broke the WebSocket protocol: %s", number, message.data)
            else:
                daemon.receive(number, message.data)
    finally:
        daemon.disconnect(number)
        await connection.end(_CLOSE_TIMEOUT_S)

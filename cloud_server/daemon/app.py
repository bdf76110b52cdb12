"""The daemon's HTTP face: the devices' WebSocket, health, readiness and metrics."""

from typing import Protocol

from aiohttp import web

from cloud_server.daemon.daemon import CloudDaemon
from cloud_server.daemon.entrance import let_in
from cloud_server.daemon.metrics import Metrics
from cloud_server.daemon.reception import Reception
from process.paced import Paced
from wire.handshake import LINK_PATH


class Serving(Protocol):
    """What the HTTP face asks of the server behind it."""

    metrics: Metrics
    reception: Reception

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
        self._page = Paced(self._render, serving.reception.clock)

    async def link(self, request: web.Request) -> web.StreamResponse:
        """One device: frames to the daemon until the socket is gone."""
        daemon = self._serving.daemon
        if daemon is None or daemon.is_draining:
            reason = _LOADING if daemon is None else _DRAINING
            raise web.HTTPServiceUnavailable(text=reason, headers={"Retry-After": "1"})
        return await let_in(daemon, request, self._serving.reception)

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
        page = await self._page.page()
        content_type = self._serving.metrics.content_type
        return web.Response(body=page, headers={"Content-Type": content_type})

    def _render(self) -> bytes:
        daemon = self._serving.daemon
        return self._serving.metrics.render(None if daemon is None else daemon.figures())

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

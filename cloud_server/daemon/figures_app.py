"""The daemon's face for those who run it: its figures, and whether it is alive and ready.

It has a port of its own, so that devices do not see what others do, and whoever asks often or
comes in numbers takes no place and no time from them.
"""

from aiohttp import web

from cloud_server.daemon.app import Serving, probes
from process.listening.guard import Guard
from process.listening.limits import Limits
from process.paced import Paced

_MAX_CONNECTIONS = 64


def make_figures_app(serving: Serving) -> web.Application:
    """The routes."""
    page = Paced(lambda: _render(serving), serving.reception.clock)

    async def metrics(request: web.Request) -> web.Response:
        content_type = serving.metrics.content_type
        return web.Response(body=await page.page(), headers={"Content-Type": content_type})

    app = web.Application()
    app.add_routes([*probes(serving), web.get("/metrics", metrics)])
    return app


def figures_guard(serving: Serving) -> Guard:
    """Who may ask for figures: a few at once, all of which may be one."""
    limits = Limits(_MAX_CONNECTIONS, _MAX_CONNECTIONS)
    return Guard(limits, serving.reception.guard.log, takes_bodies=False)


def _render(serving: Serving) -> bytes:
    daemon = serving.daemon
    return serving.metrics.render(None if daemon is None else daemon.figures())

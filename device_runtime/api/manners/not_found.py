"""Addresses that are not served: what was asked for, and what there is."""

from collections.abc import Iterator

from aiohttp import hdrs, web

from device_runtime.api.description.document import plain_path
from device_runtime.api.description.table import routes_of
from device_runtime.api.errors import ApiError

EVERYTHING_ELSE = "/{path}"
"""How the route is called that takes what no other does."""

EVERYTHING_ELSE_PATTERN = "/{path:(?s:.*)}"

_MAX_PATH_CHARACTERS = 100
_MAX_METHOD_CHARACTERS = 20


async def nothing_here(request: web.Request) -> web.StreamResponse:
    """Say so, so that a client's own words ("model not found") mislead nobody.

    Raises:
        ApiError: 405 with `Allow` where other methods would do, else 404 with all routes.
    """
    asked = f"{request.method[:_MAX_METHOD_CHARACTERS]} {_path(request)}"
    allowed = set()
    for resource in _resources(request.app):
        _, methods = await resource.resolve(request)
        allowed |= methods
    if allowed:
        methods_text = ", ".join(sorted(allowed))
        message = f"{asked} is not allowed; allowed here: {methods_text}"
        headers = {str(hdrs.ALLOW): ",".join(sorted(allowed))}
        raise ApiError(405, message, code="method_not_allowed", headers=headers)
    routes = ", ".join(
        f"{route.method} {plain_path(route.path)}" for route in routes_of(request.app)
    )
    raise ApiError(404, f"{asked} is not served here; what is: {routes}", code="not_found")


def _resources(app: web.Application) -> Iterator[web.AbstractResource]:
    return (each for each in app.router.resources() if each.canonical != EVERYTHING_ELSE)


def _path(request: web.Request) -> str:
    """The path as it was sent, shortened and printable; the query may hold a secret."""
    path = request.raw_path.partition("?")[0]
    shown = "".join(c if c.isascii() and c.isprintable() else "?" for c in path)
    return shown if len(shown) <= _MAX_PATH_CHARACTERS else shown[:_MAX_PATH_CHARACTERS] + "..."

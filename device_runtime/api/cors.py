"""Which web pages may call the endpoint from a browser."""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from device_runtime.api.request_id import HEADER, request_id_of
from device_runtime.api.service import SERVICE

LOCALHOST = "localhost"
"""Among the origins: pages served from this machine, whatever their scheme and port."""

_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_PREFLIGHT_AGE_S = 600
_EXPOSED = f"{HEADER}, Retry-After, Server-Timing, X-Hat-Rounds"
# Header names as RFC 9110 has them, a comma-separated list, bounded since it is sent back.
_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,1024}")


def is_preflight(request: web.Request) -> bool:
    """Whether a browser asks what a page may send."""
    return (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )


def answer_preflight(request: web.Request) -> web.Response:
    """Any method and header; the origin is judged with every response."""
    asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
    allowed = asked if _HEADER_NAMES.fullmatch(asked) else "Authorization, Content-Type"
    headers = {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST, OPTIONS",
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: allowed,
        hdrs.ACCESS_CONTROL_MAX_AGE: str(_PREFLIGHT_AGE_S),
    }
    return web.Response(status=204, headers=headers)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Headers of every response, streams included, at the moment its head is sent."""
    response.headers[HEADER] = request_id_of(request)
    origins = request.app[SERVICE].access.cors_origins
    origin = request.headers.get(hdrs.ORIGIN)
    if "*" in origins:
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = "*"
    elif origin is not None:
        response.headers.add(hdrs.VARY, "Origin")
        if not _is_allowed(origin, origins):
            return
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
    response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED


def _is_allowed(origin: str, origins: Sequence[str]) -> bool:
    if origin in origins:
        return True
    try:
        return LOCALHOST in origins and urlsplit(origin).hostname in _LOCAL_HOSTS
    except ValueError:
        return False

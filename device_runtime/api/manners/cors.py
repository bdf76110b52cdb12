"""Which web pages may call the endpoint from a browser."""

import re

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from device_runtime.api.errors import ApiError
from device_runtime.api.manners.middleware import REQUEST_ID, request_id_of
from device_runtime.api.manners.origins import ANY, allows_host, allows_origin
from device_runtime.api.service import SERVICE, AccessRules

_SAFE_METHODS = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})
_FETCH_SITE = "Sec-Fetch-Site"
_PREFLIGHT_AGE_S = 600
_EXPOSED = f"{REQUEST_ID}, Retry-After, Server-Timing, X-Hat-Rounds, X-Hat-Answered-By"
# Header names as RFC 9110 has them, a comma-separated list, bounded since it is sent back.
_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,1024}")


@web.middleware
async def check_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let no foreign web page in, and answer the questions that browsers ask beforehand."""
    _check_page(request)
    if _is_preflight(request):
        return _preflight_answer(request)
    return await handler(request)


def _check_page(request: web.Request) -> None:
    """Keep out web pages that have no business here, whatever the route.

    A page may send a GET without `Origin` (a picture, a link), but never reads the answer, and no
    GET changes anything. What else a browser sends across sites names its origin.

    Raises:
        ApiError: 403, the host or the origin is not allowed.
    """
    access = request.app[SERVICE].access
    if not all(_is_own(host, access) for host in _hosts(request)):
        message = (
            "the endpoint does not answer to the name in Host; ask it as localhost or by an "
            "address, or allow the name with --allowed-hosts"
        )
        raise ApiError(403, message, code="host_not_allowed")
    origins = request.headers.getall(hdrs.ORIGIN, ())
    is_unnamed = not origins and request.headers.get(_FETCH_SITE) == "cross-site"
    own_host = _own_host(request, access)
    if not all(allows_origin(each, own_host, access.cors_origins) for each in origins) or (
        is_unnamed and request.method not in _SAFE_METHODS and ANY not in access.cors_origins
    ):
        message = "web pages of this origin may not ask here; allow it with --cors-origins"
        raise ApiError(403, message, code="origin_not_allowed")


def _is_preflight(request: web.Request) -> bool:
    """Whether a browser asks what a page may send."""
    return (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )


def _preflight_answer(request: web.Request) -> web.Response:
    """Any method and header, to pages that may ask at all."""
    asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
    allowed = asked if _HEADER_NAMES.fullmatch(asked) else "Authorization, Content-Type"
    headers = {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST, DELETE, OPTIONS",
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: allowed,
        hdrs.ACCESS_CONTROL_MAX_AGE: str(_PREFLIGHT_AGE_S),
    }
    return web.Response(status=204, headers=headers)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Headers of every response, streams included, at the moment its head is sent."""
    response.headers[REQUEST_ID] = request_id_of(request)
    access = request.app[SERVICE].access
    origin = request.headers.get(hdrs.ORIGIN)
    add_cors_headers(response, origin, access, _own_host(request, access))


def add_cors_headers(
    response: web.StreamResponse,
    origin: str | None,
    access: AccessRules,
    own_host: str | None = None,
) -> None:
    """Let a page read the response, if it may ask; `own_host` is what the request called us."""
    if ANY in access.cors_origins:
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = ANY
    elif origin is not None:
        response.headers.add(hdrs.VARY, "Origin")
        if not allows_origin(origin, own_host, access.cors_origins):
            return
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
    response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED


def _own_host(request: web.Request, access: AccessRules) -> str | None:
    host = request.headers.get(hdrs.HOST, "")
    return host if _is_own(host, access) else None


def _is_own(host: str, access: AccessRules) -> bool:
    return access.allowed_hosts is None or allows_host(host, access.allowed_hosts)


def _hosts(request: web.Request) -> list[str]:
    """The names under which a request asks: in its headers, and in a whole URL as its target."""
    hosts = [host for host in request.headers.getall(hdrs.HOST, ()) if host]
    target = request.raw_path
    if not target.startswith(("/", "*")):
        scheme, found, rest = target.partition("://")
        hosts.append(re.split("[/?#]", rest if found else scheme, maxsplit=1)[0])
    return hosts

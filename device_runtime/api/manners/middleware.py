"""What every request goes through: a name, a log line, one shape of errors, the key."""

import asyncio
import hmac
import logging
import re
import uuid

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11
from aiohttp.typedefs import Handler

from device_runtime.api.answer.sending import IS_ANSWERED
from device_runtime.api.description.table import envelope_of, is_open
from device_runtime.api.errors import ApiError, Envelope, as_api_error, internal_error
from device_runtime.api.manners.not_found import EVERYTHING_ELSE, nothing_here
from device_runtime.api.page.document import wants_page
from device_runtime.api.request.traces import trace_of
from device_runtime.api.service import SERVICE
from process.program.logs import describe_error, with_fields
from process.quiet_log import QuietLog

QUIET_LOG = web.AppKey("quiet_log", QuietLog)

REQUEST_ID = "X-Request-ID"
"""The header with a request's name, both ways."""

API_KEY = "x-api-key"
"""The header in which clients of Anthropic's API have the key."""

_NAME = web.RequestKey("request_id", str)
# Short and plain, since it is copied into headers and logs.
_ACCEPTED_NAME = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_CONTINUE = "100-continue"
_REFUSED = frozenset({401, 403, 404, 405, 413, 415, 417})

_logger = logging.getLogger(__name__)


@web.middleware
async def name_and_log(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its name, and say in one line how it ended."""
    clock = request.app[SERVICE].metrics.clock
    begun_s = clock()
    status: int | str = "failed"
    try:
        response = await handler(request)
        status = response.status
        return response
    except asyncio.CancelledError:
        status = 200 if IS_ANSWERED in request else "left"
        raise
    finally:
        level = logging.DEBUG if request.method in {hdrs.METH_GET, hdrs.METH_HEAD} else logging.INFO
        if status in _REFUSED:
            # Whoever may not ask can make a line with each try.
            name = request_id_of(request)
            request.app[QUIET_LOG].say(level, "refused %s: %s %s", _route(request), status, name)
            level = logging.DEBUG
        fields = with_fields(
            method=request.method,
            route=_route(request),
            status=status,
            duration_s=round(clock() - begun_s, 4),
            request_id=request_id_of(request),
            trace_id=trace_of(request).trace_id.hex(),
        )
        _logger.log(level, "request", extra=fields)


@web.middleware
async def shape_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every failure with the envelope of the API that was asked."""
    try:
        return await _found(request, handler)
    except web.HTTPException as error:
        return error_response(_of_http(error), envelope_of(request))
    except Exception as error:
        known = as_api_error(error)
        if known is None:
            told = with_fields(trace_id=trace_of(request).trace_id.hex())
            _logger.error("a request failed: %s", describe_error(error), extra=told)
        return error_response(known or internal_error(), envelope_of(request))


@web.middleware
async def check_key(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let only those in who have the key, if there is one."""
    api_key = request.app[SERVICE].access.api_key
    # The page is harmless, and asks for the key.
    if api_key is not None and not is_open(request) and not wants_page(request):
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() != "bearer":
            given = request.headers.get(API_KEY, "")
        is_right = hmac.compare_digest(given.strip().encode(errors="replace"), api_key.encode())
        if not is_right:
            message = "expected the API key as `Authorization: Bearer KEY` or `x-api-key: KEY`"
            headers = {str(hdrs.WWW_AUTHENTICATE): "Bearer"}
            raise ApiError(401, message, code="invalid_api_key", headers=headers)
    return await handler(request)


@web.middleware
async def check_expectation(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what we do not know how to meet."""
    for expected in request.headers.getall(hdrs.EXPECT, ()):
        if request.version >= HttpVersion11 and expected.strip().lower() != _CONTINUE:
            message = f"Expect: the only expectation met here is {_CONTINUE}"
            raise ApiError(417, message, code="expectation_failed")
    return await handler(request)


async def leave_to_middleware(_request: web.Request) -> None:
    """In place of aiohttp's own handler, which would ask for the body before the key is seen."""


def request_id_of(request: web.Request) -> str:
    """The request's name: the client's own where it is acceptable, else a new one."""
    if _NAME not in request:
        given = request.headers.get(REQUEST_ID, "")
        request[_NAME] = given if _ACCEPTED_NAME.fullmatch(given) else new_name()
    return request[_NAME]


def new_name() -> str:
    """A name for a request that brings none."""
    return uuid.uuid4().hex


def error_response(error: ApiError, envelope: Envelope = ApiError.encode) -> web.Response:
    """An error as a response."""
    return web.Response(
        body=envelope(error),
        status=error.status,
        headers=error.headers,
        content_type="application/json",
    )


async def _found(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The answer, also to what is no path and so not even `EVERYTHING_ELSE`: `OPTIONS *`."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return await nothing_here(request)


def _of_http(error: web.HTTPException) -> ApiError:
    """What aiohttp itself found wrong with a request."""
    match error:
        case web.HTTPRequestEntityTooLarge():
            return ApiError(413, "the request body is too large", code="request_too_large")
        case _:
            return ApiError(error.status, error.reason, code="http_error")


def _route(request: web.Request) -> str:
    """The route's pattern: a path that nobody serves is the client's own text."""
    resource = request.match_info.route.resource
    if resource is None or resource.canonical == EVERYTHING_ELSE:
        return "none"
    return resource.canonical

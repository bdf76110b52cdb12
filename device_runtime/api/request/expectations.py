"""`Expect: 100-continue`: a client that waits with its body until it has been let in."""

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11
from aiohttp.typedefs import Handler

from device_runtime.api.errors import ApiError

_CONTINUE = "100-continue"


async def leave_to_middleware(_request: web.Request) -> None:
    """In place of aiohttp's own handler, which would ask for the body before the key is seen."""


@web.middleware
async def check_expectation(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what we do not know how to meet."""
    for expected in request.headers.getall(hdrs.EXPECT, ()):
        if request.version >= HttpVersion11 and expected.strip().lower() != _CONTINUE:
            message = f"Expect: the only expectation met here is {_CONTINUE}"
            raise ApiError(417, message, code="expectation_failed")
    return await handler(request)


def ask_for_body(request: web.Request) -> None:
    """Tell a client that waits for it to go on.

    Raises:
        HTTPRequestEntityTooLarge: its body would be longer than the server takes. A client that
            does not wait is told later: it would not read the answer while it sends.
    """
    waits = request.version >= HttpVersion11 and hdrs.EXPECT in request.headers
    if waits and request.transport is not None and not request.content.is_eof():
        num_bytes = request.content_length or 0
        if num_bytes > request.client_max_size:
            raise web.HTTPRequestEntityTooLarge(request.client_max_size, num_bytes)
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

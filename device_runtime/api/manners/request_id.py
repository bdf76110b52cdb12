"""One name per request, in the answer's header, in the log, and on to the runtime."""

import re
import uuid

from aiohttp import web

HEADER = "X-Request-ID"
_KEY = web.RequestKey("request_id", str)
# Short and plain, since it is copied into headers and logs.
_ACCEPTED = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def name_request(request: web.Request) -> None:
    """Take the client's own name for its request where it is acceptable, else a new one."""
    given = request.headers.get(HEADER, "")
    request[_KEY] = given if _ACCEPTED.fullmatch(given) else new_name()


def new_name() -> str:
    """A name for a request that brings none."""
    return uuid.uuid4().hex


def request_id_of(request: web.Request) -> str:
    """The name the request was given; one that failed before it had one gets it now."""
    if _KEY not in request:
        name_request(request)
    return request[_KEY]

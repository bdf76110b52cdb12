"""What the listener itself refuses, before an application hears of it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from process.listening.limits import Limits

_ORIGIN = re.compile(rb"^origin:[ \t]*([^\r\n]{1,512}?)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_MAX_REASON_CHARACTERS = 100
# aiohttp's parser lets some others pass, and would answer in them.
HTTP_1 = (HttpVersion10, HttpVersion11)
_OTHER_PROTOCOLS = {
    b"\x16\x03": "this port speaks plain HTTP, and a TLS greeting came: use http://",
    b"PRI * HTTP/2": "this port speaks HTTP/1.1, and a greeting of HTTP/2 came",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not taken. `code` is one word; `origin` the page that asks, if known."""

    status: int
    code: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)
    origin: str | None = None


Refuse = Callable[[Refusal], web.Response]
"""How an application words a refusal."""


def plain(refusal: Refusal) -> web.Response:
    """A refusal as a line of text."""
    return web.Response(status=refusal.status, text=refusal.message, headers=refusal.headers)


FULL = Refusal(503, "too_many_connections", "too many connections", {"Retry-After": "1"})


def check_head(request: web.BaseRequest, limits: Limits, takes_bodies: bool) -> Refusal | None:
    """What is wrong with a request, as far as its head says; nothing of its body is read."""
    origin = request.headers.get(hdrs.ORIGIN)
    if request.version not in HTTP_1:
        major, minor = request.version
        message = f"this port speaks HTTP/1.1, and HTTP/{major}.{minor} was asked for"
        return Refusal(400, "bad_request", message, origin=origin)
    size = sum(len(name) + len(value) + 4 for name, value in request.raw_headers)
    if size > limits.max_head_bytes:
        return _fields_too_large(limits, origin)
    if len(request.raw_path.partition("?")[0]) > limits.max_path_bytes:
        message = f"the path is longer than {limits.max_path_bytes} bytes"
        return Refusal(414, "request_line_too_long", message, origin=origin)
    field = _compressing_field(request)
    if field is not None:
        message = f"the body must not be compressed: leave {field} out"
        headers = {str(hdrs.ACCEPT_ENCODING): "identity"}
        return Refusal(415, "unsupported_content_encoding", message, headers, origin)
    if not takes_bodies and request.can_read_body:
        return Refusal(413, "body_not_allowed", "nothing here takes a body", origin=origin)
    return None


def _compressing_field(request: web.BaseRequest) -> str | None:
    """The header field that says that a body is not what it seems, chunks aside."""
    for name, harmless in (
        (hdrs.CONTENT_ENCODING, {"", "identity"}),
        (hdrs.TRANSFER_ENCODING, {"", "identity", "chunked"}),
    ):
        given = ",".join(request.headers.getall(name, ())).split(",")
        if any(encoding.strip().lower() not in harmless for encoding in given):
            return str(name)
    return None


def of_parser(error: BaseException, head: bytes, limits: Limits) -> Refusal:
    """What aiohttp's parser found wrong; `head` is what had come of the request."""
    found = _ORIGIN.search(head)
    origin = None if found is None else found[1].decode(errors="replace")
    if isinstance(error, HeadTooLongError | LineTooLong):
        if 0 <= head.find(b"\n") <= limits.max_head_bytes:
            return _fields_too_large(limits, origin)
        message = f"the request line is longer than {limits.max_head_bytes} bytes"
        return Refusal(414, "request_line_too_long", message, origin=origin)
    for beginning, message in _OTHER_PROTOCOLS.items():
        if head.startswith(beginning):
            return Refusal(400, "bad_request", message, origin=origin)
    reason = error.message if isinstance(error, HttpProcessingError) else ""
    line = next(iter(reason.splitlines()), "").strip().rstrip(":")[:_MAX_REASON_CHARACTERS]
    if line.startswith("Too many headers"):
        message = f"more than {limits.max_headers} header fields"
        return Refusal(431, "request_header_fields_too_large", message, origin=origin)
    detail = f": {line}" if line.isprintable() and line else ""
    return Refusal(400, "bad_request", f"this is no HTTP request{detail}", origin=origin)


class HeadTooLongError(HttpProcessingError):
    """The head of a request has grown beyond its bound without an end."""

    code = 431
    message = "the head of the request is too long"


def as_bytes(response: web.Response) -> bytes:
    """A response for a connection that is closed right after it."""
    body = response.body if isinstance(response.body, bytes) else b""
    fields = [f"{name}: {value}\r\n" for name, value in response.headers.items()]
    ending = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    head = f"HTTP/1.1 {response.status} {response.reason}\r\n{''.join(fields)}{ending}"
    return head.encode("latin-1", "replace") + body


def _fields_too_large(limits: Limits, origin: str | None) -> Refusal:
    message = f"the header fields are longer than {limits.max_head_bytes} bytes"
    return Refusal(431, "request_header_fields_too_large", message, origin=origin)

"""Whatever bytes come, a refusal has the envelope, and nothing is logged as an error."""

import asyncio
import logging

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_runtime.api.service import AccessRules
from tests.support.api_server import CHAT, USER, make_service, serving, story_generator
from tests.support.guarded import read_all

BODY = msgspec.json.encode({"messages": USER, "max_tokens": 2})

# Most of a request is usually right: else the parser would refuse nearly all of them.
methods = st.sampled_from(
    ["GET", "GET", "POST", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT", "TRACE", "get", "P"]
)
paths = st.sampled_from([CHAT, "/health", "/v1/models"]) | st.sampled_from(
    ["/", "/health", CHAT, "/v1/models", "/v1/models/x", "/none", "*", "//health", "http://a/health",
     "http://localhost/health", "localhost:80", "", "/\x7f", "/é", "/%00", "/a b", "?", "#", "/..",
     "http://[/", "http://a:b/", "/" + "a/" * 5000, "/" + "a" * 40_000]
)  # fmt: skip
versions = st.just("HTTP/1.1") | st.sampled_from(
    ["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.1 ", "", "X"]
)
fields = st.sampled_from(
    ["Host: localhost", "Host: evil.example", "Host:", "Host: [::1", "Origin: http://localhost",
     "Origin: http://evil.example", "Origin: null", "Expect: 100-continue", "Expect: x",
     f"Content-Length: {len(BODY)}", "Content-Length: 0", "Content-Length: -1", "Content-Length: 1",
     "Transfer-Encoding: chunked", "Transfer-Encoding: x", "Content-Encoding: gzip",
     "Connection: x", "Content-Encoding: identity", "Content-Type: multipart/x", "Content-Type: \"",
     "Connection: close", "Connection: keep-alive", "Upgrade: websocket", "Connection: upgrade",
     "Upgrade: h2c", "Sec-WebSocket-Key1: a", "X : a", "X: \x00", "X", ": a", "X: " + "a" * 9000,
     "Authorization: Bearer key", "Authorization: Bearer \udcff", "Authorization: é", "Range: x",
     "Access-Control-Request-Method: POST", "Cookie: \udcff=", "If-Match: x", " folded"]
)  # fmt: skip
usual_fields = st.sampled_from(
    [f"Content-Length: {len(BODY)}", "Connection: close", "Content-Encoding: identity", "Range: x",
     "Origin: http://localhost", "Authorization: Bearer key", "Expect: 100-continue", "Cookie: a=b"]
)  # fmt: skip
bodies = st.sampled_from(
    [b"", BODY, b"{", b"\xff", b"2\r\n{}\r\n0\r\n\r\n", b"zz\r\n", b"[" * 5000]
)


@st.composite
def requests(draw):
    line = " ".join([draw(methods), draw(paths), draw(versions)])
    lines = [
        line,
        *draw(st.lists(usual_fields, max_size=4, unique=True)),
        *draw(st.lists(fields, max_size=1)),
    ]
    if draw(st.integers(0, 9)):
        lines.insert(1, "Host: localhost")
    head = "\r\n".join(lines) + "\r\n\r\n"
    return head.encode(errors="surrogateescape") + draw(bodies)


def check(came):
    """The first answer, if there is one."""
    if not came:
        return
    head, _, rest = came.partition(b"\r\n\r\n")
    line, *found = head.decode().split("\r\n")
    headers = dict(field.lower().split(": ", 1) for field in found)
    assert line.startswith("HTTP/")
    status = int(line.split()[1])
    assert status < 500
    if status < 400:
        return
    assert headers["content-type"] == "application/json"
    assert "x-request-id" in headers
    length = int(headers["content-length"])
    if rest[:length]:
        envelope = msgspec.json.decode(rest[:length])
        assert envelope["error"].keys() == {"message", "type", "param", "code"}


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(batch=st.lists(requests(), min_size=20, max_size=20), has_key=st.booleans())
async def test_bytes_on_the_wire_are_answered_in_the_envelope_or_not_at_all(batch, has_key):
    problems = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: problems.append(record.getMessage())
    logging.getLogger().addHandler(handler)

    try:
        access = AccessRules("key" if has_key else None, allowed_hosts=())
        async with serving(make_service(story_generator(), access=access)) as client:
            host, port = client.url.removeprefix("http://").split(":")
            for request in batch:
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(request)
                writer.write_eof()
                async with asyncio.timeout(8):
                    check(await read_all(reader))
                writer.close()
    finally:
        logging.getLogger().removeHandler(handler)
    assert problems == []

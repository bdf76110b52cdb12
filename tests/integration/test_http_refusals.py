"""What is refused before it is read, and in which words, over real sockets."""

import asyncio

import msgspec
import pytest

from device_runtime.api.service import AccessRules
from tests.support.api_server import CHAT, USER, story_server


async def exchange(client, request, until=None):
    """Send bytes and read to the end, or until some bytes have come."""
    host, port = client.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    async with asyncio.timeout(20):
        came = await (reader.read() if until is None else reader.readuntil(until))
    writer.close()
    return came


def head_and_error(came):
    """Status, header fields in lower case, and the error of the envelope."""
    head, _, body = came.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    headers = dict(field.lower().split(": ", 1) for field in fields)
    assert headers["content-type"].startswith("application/json")
    envelope = msgspec.json.decode(body)
    assert envelope["error"].keys() == {"message", "type", "param", "code"}
    return int(line.split()[1]), headers, envelope["error"]


@pytest.mark.parametrize(
    ("method", "path", "shown"),
    [
        ("POST", "/v1/moderations", "POST /v1/moderations is not served here"),
        ("POST", "/v1/files?beta=true&key=abc", "POST /v1/files is not served here"),
        ("GET", "/apis/tags", "GET /apis/tags is not served here"),
        ("PUT", "/" + "a" * 5000, "PUT /" + "a" * 99 + "... is not served here"),
        ("GET", "/%0a%1b", "GET /%0A%1B is not served here"),
    ],
)
async def test_an_address_that_is_not_served_is_named_with_those_that_are(method, path, shown):
    async with story_server() as (client, _):
        async with client.http.request(method, client.url + path) as response:
            error = (await response.json())["error"]
        assert (response.status, error["code"]) == (404, "not_found")
        assert error["message"].lower().startswith(shown.lower())
        assert "abc" not in error["message"]
        for route in ("POST /v1/chat/completions", "GET /v1/models", "GET /v1/models/{model}"):
            assert route in error["message"]


async def test_the_server_as_a_whole_is_no_address():
    async with story_server() as (client, _):
        request = b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        status, _, error = head_and_error(await exchange(client, request))
    assert (status, error["code"]) == (404, "not_found")
    assert error["message"].startswith("OPTIONS * is not served here; what is: POST /v1/chat/comp")


async def test_a_wrong_method_says_which_are_right():
    async with story_server() as (client, _):
        for method, path, allowed in (
            ("GET", CHAT, {"POST"}),
            ("DELETE", "/v1/models", {"GET", "HEAD"}),
            ("PATCH", "/v1/models/a/b", {"GET", "HEAD"}),
            ("OPTIONS", "/tokenize", {"POST"}),
        ):
            async with client.http.request(method, client.url + path) as response:
                error = (await response.json())["error"]
            assert (response.status, error["code"]) == (405, "method_not_allowed")
            assert set(response.headers["Allow"].split(",")) == allowed
            assert f"{method} {path}" in error["message"]


@pytest.mark.parametrize("path", [CHAT, "/health", "/nowhere", "/v1/models"])
@pytest.mark.parametrize("expected", ["foo", "100-continue, foo", "200-ok"])
async def test_an_expectation_nobody_knows_is_refused(path, expected):
    async with story_server() as (client, generator):
        request = f"POST {path} HTTP/1.1\r\nHost: a\r\nExpect: {expected}\r\n"
        request += "Connection: close\r\nContent-Length: 2\r\n\r\n{}"
        status, headers, error = head_and_error(await exchange(client, request.encode()))
        assert (status, error["code"]) == (417, "expectation_failed")
        assert "x-request-id" in headers
        assert generator.requests == []


BODY = msgspec.json.encode({"messages": USER})
WAITING = b"POST %s HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nConnection: close\r\n" % (
    CHAT.encode()
)


async def test_a_client_that_waits_with_its_body_is_told_to_go_on():
    async with story_server() as (client, _):
        host, port = client.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(WAITING + b"Content-Length: %d\r\n\r\n" % len(BODY))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_body_that_is_too_large_is_not_asked_for():
    async with story_server() as (client, _):
        came = await exchange(client, WAITING + b"Content-Length: 9999999\r\n\r\n", until=b"}}")
        assert came.startswith(b"HTTP/1.1 413 ")


async def test_a_body_is_not_asked_for_before_the_key_was_seen():
    async with story_server(access=AccessRules(api_key="key")) as (client, _):
        came = await exchange(client, WAITING + b"Content-Length: 9\r\n\r\n", until=b"}}")
        assert came.startswith(b"HTTP/1.1 401 ")


async def test_who_does_not_wait_is_not_told():
    async with story_server() as (client, _):
        came = await exchange(client, WAITING + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        assert came.startswith(b"HTTP/1.1 200 ")


LONG = b"X: %b\r\n" % (b"a" * 9_000)
LOCAL_PAGE = b"Origin: http://localhost:3000\r\n"
NO_REQUESTS = {
    b"GET /health HTTP/1.1\r\n" + LOCAL_PAGE + b"Cookie: %b\r\n\r\n" % (b"a" * 33_000): 431,
    b"GET /health HTTP/1.1\r\n" + LOCAL_PAGE + b"X: a\r\n" * 200 + b"\r\n": 431,
    b"GET / HTTP/1.1\r\nHost: a\r\n" + LOCAL_PAGE + LONG * 4 + b"\r\n": 431,
    b"GET /%b HTTP/1.1\r\n\r\n" % (b"a" * 100_000): 414,
    b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a/" * 4_200): 414,
    b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n": 400,
    b"GET /health HTTP/1.1\r\nHost: a\r\n" + LOCAL_PAGE + b"X : a\r\n\r\n": 400,
    b"GET /health HTTP/1.1\r\nHost: a\r\n" + LOCAL_PAGE + b"X: \x01\r\n\r\n": 400,
    b"GET /health HTTP/1.1\r\n" + LOCAL_PAGE + b"\r\n": 400,
    b"GET /health HTTP/9.9\r\nHost: a\r\n\r\n": 400,
    b"GET /health HTTP/2.0\r\nHost: a\r\n\r\n": 400,
    b"GET /health\r\n\r\n": 400,
    b"GET /health HTTP/1.1\nHost: a\n\n": 400,
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n": 415,
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n": 400,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": 400,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03": 400,
    b"\x00\x00\x00": 400,
    b"CONNECT  \r\nHost: a\r\nConnection: close\r\n\r\n": 400,
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nExpect: foo\r\nConnection: close\r\n\r\n": 417,
}  # fmt: skip


@pytest.mark.parametrize(("request_bytes", "expected"), NO_REQUESTS.items())
async def test_what_is_no_request_is_refused_in_the_envelope(request_bytes, expected, caplog):
    caplog.set_level("INFO")

    async with story_server() as (client, _):
        status, headers, error = head_and_error(await exchange(client, request_bytes))
    assert status == expected
    assert headers["x-request-id"]
    assert error["message"].isascii()
    is_known = LOCAL_PAGE in request_bytes
    assert headers.get("access-control-allow-origin") == (
        "http://localhost:3000" if is_known else None
    )
    for record in caplog.records:
        assert record.levelname == "INFO"
        assert len(record.getMessage()) < 100
        assert "aaaa" not in record.getMessage()


async def test_another_protocol_is_named():
    async with story_server() as (client, _):
        for greeting, name in (
            (b"\x16\x03\x01\x02\x00", "TLS"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "2"),
        ):
            _, _, error = head_and_error(await exchange(client, greeting))
            assert name in error["message"]


async def test_a_head_of_32_kib_is_served():
    async with story_server() as (client, _):
        fields = {"Cookie": "a" * 20_000, "Authorization": "Bearer " + "b" * 12_000}
        async with client.http.get(client.url + "/health", headers=fields) as response:
            assert response.status == 200


async def test_a_foreign_page_does_not_read_why_its_request_was_refused():
    async with story_server() as (client, _):
        request = b"GET / HTTP/1.1\r\nHost: a\r\nOrigin: http://evil.example\r\nX : a\r\n\r\n"
        _, headers, _ = head_and_error(await exchange(client, request))
        assert "access-control-allow-origin" not in headers
        assert headers["vary"] == "origin"


@pytest.mark.parametrize(
    ("method", "path", "headers", "expected"),
    [
        ("POST", CHAT, {}, 401),
        ("POST", CHAT, {"Origin": "https://evil.example"}, 403),
        ("POST", "/quux/secret", {"Authorization": "Bearer key"}, 404),
        ("PUT", CHAT, {"Authorization": "Bearer key"}, 405),
        ("POST", CHAT, {"Content-Encoding": "gzip"}, 415),
        ("POST", CHAT, {"X": "x" * 33_000}, 431),
    ],
)
async def test_refusals_fill_no_log_and_quote_nobody(method, path, headers, expected, caplog):
    caplog.set_level("INFO")

    async with story_server(access=AccessRules(api_key="key")) as (client, _):
        for _ in range(60):
            async with client.http.request(method, client.url + path, headers=headers) as response:
                assert response.status == expected
    assert 20 <= len(caplog.records) <= 40
    assert not any(word in caplog.text for word in ("evil", "secret", "quux", "xxxx", "Bearer"))


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed", "/api/embeddings"])
async def test_embeddings_are_refused_once_and_for_all(path):
    async with story_server() as (client, _), client.http.post(client.url + path) as response:
        assert response.status == 501
        assert response.headers["x-should-retry"] == "false"
        assert "embeddings are not served here" in await response.text()

"""What is refused before it is read, and in which words, over real sockets."""

import asyncio

import msgspec
import pytest

from device_runtime.api.service import AccessRules
from tests.support.api_server import CHAT, USER, with_server


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
        ("POST", "/v1/responses", "POST /v1/responses is not served here"),
        ("POST", "/v1/messages?beta=true&key=abc", "POST /v1/messages is not served here"),
        ("GET", "/api/tags", "GET /api/tags is not served here"),
        ("PUT", "/" + "a" * 5000, "PUT /" + "a" * 99 + "... is not served here"),
        ("GET", "/%0a%1b", "GET /%0A%1B is not served here"),
    ],
)
def test_an_address_that_is_not_served_is_named_with_those_that_are(method, path, shown):
    async def test(client, _):
        async with client.http.request(method, client.url + path) as response:
            error = (await response.json())["error"]
        assert (response.status, error["code"]) == (404, "not_found")
        assert error["message"].lower().startswith(shown.lower())
        assert "abc" not in error["message"]
        for route in ("POST /v1/chat/completions", "GET /v1/models", "GET /v1/models/{model}"):
            assert route in error["message"]

    with_server(test)


def test_a_wrong_method_says_which_are_right():
    async def test(client, _):
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

    with_server(test)


@pytest.mark.parametrize("path", [CHAT, "/health", "/nowhere", "/v1/models"])
@pytest.mark.parametrize("expected", ["foo", "100-continue, foo", "200-ok"])
def test_an_expectation_nobody_knows_is_refused(path, expected):
    async def test(client, generator):
        request = f"POST {path} HTTP/1.1\r\nHost: a\r\nExpect: {expected}\r\n"
        request += "Connection: close\r\nContent-Length: 2\r\n\r\n{}"
        status, headers, error = head_and_error(await exchange(client, request.encode()))
        assert (status, error["code"]) == (417, "expectation_failed")
        assert "x-request-id" in headers
        assert generator.requests == []

    with_server(test)


BODY = msgspec.json.encode({"messages": USER})
WAITING = b"POST %s HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nConnection: close\r\n" % (
    CHAT.encode()
)


def test_a_client_that_waits_with_its_body_is_told_to_go_on():
    async def test(client, _):
        host, port = client.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(WAITING + b"Content-Length: %d\r\n\r\n" % len(BODY))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()

    with_server(test)


def test_a_body_is_not_asked_for_before_the_key_was_seen():
    async def test(client, _):
        came = await exchange(client, WAITING + b"Content-Length: 9\r\n\r\n", until=b"}}")
        assert came.startswith(b"HTTP/1.1 401 ")

    with_server(test, access=AccessRules(api_key="key"))


def test_who_does_not_wait_is_not_told():
    async def test(client, _):
        came = await exchange(client, WAITING + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        assert came.startswith(b"HTTP/1.1 200 ")

    with_server(test)

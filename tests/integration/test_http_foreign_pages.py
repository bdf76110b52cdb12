"""What a web page that the user visits can reach, over real sockets: nothing."""

import asyncio

import msgspec
import pytest

from device_runtime.api.service import AccessRules
from tests.support.api_server import CHAT, COMPLETIONS, USER, story_server

ROUTES = [
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/other"),
    ("GET", "/nowhere"),
    ("GET", CHAT),
    ("POST", CHAT),
    ("POST", COMPLETIONS),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("DELETE", "/v1/models"),
    ("HEAD", "/health"),
]
ON_LOOPBACK = AccessRules(allowed_hosts=("hat.example",))


async def status_of(client, method, path, **headers):
    """Status and error code of a request whose headers are exactly these."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.http.request(method, client.url + path, headers=named) as response:
        body = await response.read()
        assert "Access-Control-Allow-Origin" not in response.headers or response.status != 403
    error = msgspec.json.decode(body)["error"] if response.status >= 400 and body else {}
    return response.status, error.get("code")


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_route_refuses_a_foreign_name_and_a_foreign_page(method, path):
    async with story_server(access=ON_LOOPBACK) as (client, generator):
        for headers, code in (
            ({"Host": "evil.example"}, "host_not_allowed"),
            ({"Host": "evil.example:1", "Origin": "http://evil.example:1"}, "host_not_allowed"),
            ({"Host": "localhost.evil.example"}, "host_not_allowed"),
            ({"Origin": "https://evil.example"}, "origin_not_allowed"),
            ({"Origin": "null"}, "origin_not_allowed"),
            ({"Origin": "file://localhost"}, "origin_not_allowed"),
            ({"Origin": "http://[::1].evil"}, "origin_not_allowed"),
        ):
            status, came = await status_of(client, method, path, **headers)
            assert status == 403
            assert came == code or method == "HEAD"
        assert generator.requests == []


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_no_route_refuses_this_machine(method, path):
    async with story_server(access=ON_LOOPBACK) as (client, _):
        for headers in (
            {},
            {"Host": "localhost"},
            {"Host": "LocalHost:8000"},
            {"Host": "ui.localhost:8000"},
            {"Host": "[::1]:8000"},
            {"Host": "192.168.1.7:8000"},
            {"Host": "hat.example"},
            {"Host": "hat.example", "Origin": "https://hat.example"},
            {"Origin": "http://localhost:3000"},
            {"Origin": "http://127.0.0.2"},
            {"Host": "10.0.0.1:8000", "Origin": "http://10.0.0.1:8000"},
        ):
            status, _ = await status_of(client, method, path, **headers)
            assert status != 403


async def test_a_preflight_of_a_foreign_page_is_refused_and_of_a_local_one_answered():
    async with story_server(access=ON_LOOPBACK) as (client, _):
        for origin, expected in (("https://evil.example", 403), ("http://localhost:3000", 204)):
            headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            async with client.http.options(client.url + CHAT, headers=headers) as response:
                assert response.status == expected
                allowed = response.headers.get("Access-Control-Allow-Origin")
                assert allowed == (origin if expected == 204 else None)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
async def test_a_form_of_a_foreign_page_generates_nothing_and_curl_is_served(content_type):
    async with story_server(access=ON_LOOPBACK) as (client, generator):
        for headers, expected in (
            ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
            ({"Origin": "null"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({}, 200),
            ({"Origin": "http://localhost:3000", "Sec-Fetch-Site": "cross-site"}, 200),
        ):
            given = headers | {"Content-Type": content_type}
            status, _ = await client.post(CHAT, {"messages": USER}, headers=given)
            assert status == expected
        assert len(generator.requests) == 2


async def raw_status(client, request):
    """The status of a request that a client library would not send."""
    host, port = client.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    line = await reader.readline()
    writer.close()
    return int(line.split()[1])


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /health HTTP/1.0\r\n\r\n", 200),
        (b"GET /health HTTP/1.0\r\nHost: evil.example\r\n\r\n", 403),
        (b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 403),
        (b"GET http://evil.example HTTP/1.1\r\nHost: localhost\r\n\r\n", 403),
        (b"GET http://localhost@evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 403),
        (b"CONNECT evil.example:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 403),
        (b"OPTIONS * HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: \xff\r\n\r\n", 403),
        (
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n"
            b"Origin: http://evil.example\r\n\r\n",
            403,
        ),
    ],
)
async def test_names_in_odd_places_are_judged_too(request_bytes, status):
    async with story_server(access=ON_LOOPBACK) as (client, _):
        assert await raw_status(client, request_bytes) == status


async def test_without_a_list_of_names_any_name_is_answered_but_pages_are_still_judged():
    async with story_server(access=AccessRules()) as (client, _):
        assert (await status_of(client, "GET", "/health", Host="any.example"))[0] == 200
        own = {"Host": "any.example", "Origin": "http://any.example"}
        assert (await status_of(client, "GET", "/health", **own))[0] == 200
        other = {"Host": "any.example", "Origin": "http://other.example"}
        assert (await status_of(client, "GET", "/health", **other))[0] == 403


async def test_desktop_programs_are_let_in_where_they_are_listed():
    origins = ("tauri://localhost", "vscode-webview://*", "null")
    async with story_server(access=AccessRules(cors_origins=origins, allowed_hosts=())) as (
        client,
        _,
    ):
        for origin in ("tauri://localhost", "vscode-webview://1a2b", "null"):
            assert (await status_of(client, "GET", "/health", Origin=origin))[0] == 200
        assert (await status_of(client, "GET", "/health", Origin="app://x"))[0] == 403

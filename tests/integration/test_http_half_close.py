"""Clients that stop sending: those that still read get all, those that have left are noticed."""

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest

from tests.support.api_server import (
    CHAT,
    COMPLETIONS,
    STORY,
    USER,
    story_generator,
    story_server,
)

KINDS = [
    (version, connection, is_stream)
    for version in ("1.0", "1.1")
    for connection in ("", "Connection: close\r\n", "Connection: keep-alive\r\n")
    for is_stream in (False, True)
]


@asynccontextmanager
async def connected(client):
    host, port = client.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(30):
        yield reader, writer
    writer.close()


def request(path=CHAT, version="1.1", connection="", cut=0, **fields):
    body = msgspec.json.encode(({"messages": USER} if path == CHAT else {"prompt": "a"}) | fields)
    head = (
        f"POST {path} HTTP/{version}\r\nHost: a\r\n{connection}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body[: len(body) - cut]


def text_of(came, version, is_stream):
    """The text of a whole answer that nothing follows."""
    head, _, body = came.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/{version} 200 OK\r\n".encode())
    if not is_stream:
        return msgspec.json.decode(body)["choices"][0]["message"]["content"]
    if version == "1.1":
        body = b"".join(dechunked(body))
    *events, done, end = body.decode().split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    documents = [msgspec.json.decode(event[6:]) for event in events if event[0] == "d"]
    return "".join(part["choices"][0]["delta"].get("content", "") for part in documents)


def dechunked(body):
    while True:
        size, _, body = body.partition(b"\r\n")
        chunk, body = body[: int(size, 16)], body[int(size, 16) + 2 :]
        if not chunk:
            assert body == b""
            return
        yield chunk


@pytest.mark.parametrize(("version", "connection", "is_stream"), KINDS)
async def test_a_client_that_stops_sending_gets_its_whole_answer(version, connection, is_stream):
    async with story_server() as (client, _), connected(client) as (reader, writer):
        writer.write(request(version=version, connection=connection, stream=is_stream))
        writer.write_eof()
        assert text_of(await reader.read(), version, is_stream) == STORY


@pytest.mark.parametrize(("version", "connection", "is_stream"), KINDS)
async def test_it_gets_it_after_a_long_silence_too(version, connection, is_stream):
    gate = asyncio.Event()

    async with (
        story_server(story_generator(gates={0: gate})) as (client, generator),
        connected(client) as (reader, writer),
    ):
        writer.write(request(version=version, connection=connection, stream=is_stream))
        await generator.until_open(1)
        writer.write_eof()
        # Two of the bytes by which the server finds out whether somebody is there.
        came = await reader.readexactly(2)
        assert came == b"HT"
        gate.set()
        assert text_of(came + await reader.read(), version, is_stream) == STORY


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_it_gets_the_rest_of_a_stream_after_a_long_silence(version):
    gate = asyncio.Event()

    async with (
        story_server(story_generator(gates={1: gate})) as (client, _),
        connected(client) as (reader, writer),
    ):
        writer.write(request(version=version, stream=True))
        came = await reader.readuntil(b"}\n\n")
        writer.write_eof()
        came += await reader.readuntil(b": ping\n\n")
        came += await reader.readuntil(b": ping\n\n")
        gate.set()
        assert text_of(came + await reader.read(), version, True) == STORY


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_an_error_reaches_it_as_a_status(path):
    async with story_server() as (client, _), connected(client) as (reader, writer):
        writer.write(request(path, max_tokens=-1))
        writer.write_eof()
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")


async def test_all_requests_before_the_end_are_answered():
    async with story_server() as (client, generator):
        async with connected(client) as (reader, writer):
            writer.write(request(CHAT, n=1) * 2 + b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            writer.write_eof()
            came = await reader.read()
        assert came.count(b"HTTP/1.1 200 OK") == 3
        assert came.endswith(b'{"status":"ok"}')
        assert len(generator.requests) == 2


async def test_a_request_that_is_cut_off_is_told_so_at_once():
    async with story_server() as (client, generator):
        async with connected(client) as (reader, writer):
            writer.write(request(cut=3))
            writer.write_eof()
            came = await reader.read()
        assert came.startswith(b"HTTP/1.1 400 ")
        assert b"invalid_body" in came
        assert generator.requests == []


async def test_a_body_that_goes_on_as_nonsense_is_told_so_at_once():
    async with story_server() as (client, _):
        async with connected(client) as (reader, writer):
            writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: a\r\n".encode())
            writer.write(b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
            await asyncio.sleep(0)
            await writer.drain()
            async with client.http.get(client.url + "/health") as response:
                assert response.status == 200
            writer.write(b"nonsense\r\n")
            came = await reader.read()
        assert came.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
        assert came.count(b"HTTP/1.") == 1


@pytest.mark.parametrize("num_before", [0, 2])
@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("is_half_closed_before", [False, True])
async def test_a_client_that_leaves_is_noticed(is_half_closed_before, is_stream, num_before):
    async with story_server(story_generator(gates={num_before: asyncio.Event()})) as (
        client,
        generator,
    ):
        async with connected(client) as (reader, writer):
            writer.write(request(stream=is_stream))
            await generator.until_open(1)
            if is_half_closed_before:
                writer.write_eof()
                await reader.readexactly(1)
            writer.close()
            await generator.until_all_closed()
        assert generator.num_closed == 1

"""Clients of HTTP/1.0: every answer ends, streamed or not."""

import asyncio

import msgspec
import pytest

from tests.support.api_server import CHAT, USER, story_server


@pytest.mark.parametrize("connection", ["", "Connection: keep-alive\r\n", "Connection: close\r\n"])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_answer_to_an_old_client_ends(connection, is_stream):
    async with story_server() as (client, _):
        body = msgspec.json.encode({"messages": USER, "stream": is_stream})
        host, port = client.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST {CHAT} HTTP/1.0\r\n{connection}Content-Length: {len(body)}\r\n\r\n".encode()
        )
        writer.write(body)
        async with asyncio.timeout(20):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            assert head.startswith("http/1.0 200 ")
            assert "transfer-encoding" not in head
            if is_stream or "keep-alive" not in connection:
                rest = await reader.read()
            else:
                assert "connection: keep-alive" in head
                length = int(head.partition("content-length: ")[2].split()[0])
                rest = await reader.readexactly(length)
        assert rest.endswith(b"data: [DONE]\n\n" if is_stream else b"}")
        if is_stream:
            assert "connection: close" in head
        writer.close()

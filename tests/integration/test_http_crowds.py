"""Clients that take places and give nothing: others are still served."""

import asyncio

import msgspec
import pytest

from device_runtime.api import app
from tests.support.api_server import CHAT, STORY, USER, story_generator, story_server
from tests.support.event_loop import until
from tests.support.guarded import read_all

BODY = msgspec.json.encode({"messages": USER})
HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
PLACES = 8

CROWDS = {
    "silent": b"",
    "half a head": b"GET /health HTTP/1.1\r\nHost: a\r\nX: ",
    "half a body": HEAD + BODY[:3],
    "no body": HEAD,
    "between requests": b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.fixture
def _few_places(monkeypatch):
    monkeypatch.setattr(app, "default_max_connections", lambda _: 2 * PLACES)


async def connect(client, data):
    host, port = client.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    return reader, writer


@pytest.mark.usefixtures("_few_places")
@pytest.mark.parametrize("crowd", CROWDS)
async def test_who_gives_nothing_makes_room(crowd):
    async with story_server() as (client, _):
        connections = [await connect(client, CROWDS[crowd]) for _ in range(4 * PLACES)]
        for _ in range(3):
            async with client.http.get(client.url + "/health") as response:
                assert response.status == 200
            status, document = await client.post(CHAT, {"messages": USER})
            assert (status, document["choices"][0]["message"]["content"]) == (200, STORY)
        leaving = [asyncio.create_task(read_all(reader)) for reader, _ in connections]
        await until(lambda: sum(task.done() for task in leaving) >= 3 * PLACES)
        for _, writer in connections:
            writer.close()


@pytest.mark.usefixtures("_few_places")
async def test_who_waits_for_an_answer_keeps_his_place():
    gate = asyncio.Event()

    async with story_server(story_generator(gates={0: gate})) as (client, generator):
        waiting = [await connect(client, HEAD + BODY) for _ in range(PLACES - 1)]
        await generator.until_open(PLACES - 1)
        crowd = [await connect(client, b"") for _ in range(2 * PLACES)]
        gate.set()
        for reader, writer in waiting:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            writer.close()
        for _, writer in crowd:
            writer.close()

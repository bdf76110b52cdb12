"""A client that leaves ends its generations; a server that stops ends them in order."""

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest

from device_runtime.api.service import Timing
from tests.support.api_server import (
    CHAT,
    COMPLETIONS,
    STORY,
    USER,
    story_generator,
    story_server,
)

BODY = {"messages": USER}


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("num_before", [0, 3])
@pytest.mark.parametrize("n", [1, 3])
async def test_leaving_ends_every_generation_exactly_once(is_stream, num_before, n):
    async with story_server(story_generator(gates={num_before: asyncio.Event()})) as (
        client,
        generator,
    ):
        body = BODY | {"stream": is_stream, "n": n}
        asking = asyncio.create_task(client.post(CHAT, body))
        await generator.until_open(n)
        asking.cancel()
        await generator.until_all_closed()
        assert generator.num_closed == n


async def test_leaving_in_the_middle_of_a_stream_ends_the_generation():
    async with story_server(story_generator(gates={1: asyncio.Event()})) as (client, generator):
        body = BODY | {"stream": True}
        async with client.http.post(client.url + CHAT, json=body) as response:
            await response.content.readuntil(b"\n\n")
            response.close()
        await generator.until_all_closed()
        assert (generator.num_open, generator.num_closed) == (0, 1)


async def test_a_stop_string_ends_the_generation_exactly_once_and_early():
    # The token after the stop string is never reached.
    async with story_server(story_generator(gates={5: asyncio.Event()})) as (client, generator):
        await client.post(COMPLETIONS, {"prompt": "a", "max_tokens": 50, "stop": "little"})
        assert (generator.num_open, generator.num_closed) == (0, 1)


async def test_a_server_that_left_a_client_still_serves_others():
    async with story_server(story_generator(gates={2: asyncio.Event()})) as (client, generator):
        asking = asyncio.create_task(client.post(CHAT, BODY))
        await generator.until_open(1)
        asking.cancel()
        await generator.until_all_closed()
        generator.gates.clear()
        status, document = await client.post(CHAT, BODY)
        assert (status, document["choices"][0]["message"]["content"]) == (200, STORY)


async def test_a_client_that_stops_reading_is_given_up():
    # Far more than the buffers between the two hold.
    generator = story_generator(max_context_tokens=1 << 24)
    generator.answer = lambda request: [300]
    async with story_server(generator, timing=Timing(write_s=0.05)) as (client, generator):
        host, port = client.url.removeprefix("http://").split(":")
        body = msgspec.json.encode(BODY | {"stream": True})
        reader, writer = await asyncio.open_connection(host, int(port), limit=1)
        writer.write(b"POST %s HTTP/1.1\r\nHost: x\r\n" % CHAT.encode())
        writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        await reader.readexactly(1)
        writer.transport.pause_reading()
        await generator.until_all_closed()
        assert generator.num_closed == 1
        writer.close()


async def test_a_request_that_does_not_come_is_given_up():
    async with story_server(timing=Timing(read_s=0.01)) as (client, _):
        host, port = client.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST %s HTTP/1.1\r\nHost: x\r\n" % CHAT.encode())
        writer.write(b"Connection: close\r\nContent-Length: 9\r\n\r\n{")
        answer = await reader.readuntil(b"}}")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"request_timeout" in answer
        writer.close()


@asynccontextmanager
async def drainable(**changes):
    """A client, its generator and the drain of its server."""
    async with story_server(story_generator(**changes)) as (client, generator):
        yield client, generator, client.drain


async def test_draining_lets_streams_finish_and_refuses_new_requests():
    async with drainable(gates={2: asyncio.Event()}) as (client, generator, drain):
        streaming = asyncio.create_task(client.chunks(CHAT, BODY))
        await generator.until_open(1)
        stopping = asyncio.create_task(drain.finish(60.0))
        await asyncio.sleep(0)
        for path in ("/ready", None):
            if path is None:
                status, document = await client.post(CHAT, BODY)
            else:
                async with client.http.get(client.url + path) as response:
                    status, document = response.status, await response.json()
                    assert response.headers["Retry-After"]
            assert (status, document["error"]["code"]) == (503, "draining")
        async with client.http.get(client.url + "/health") as response:
            assert response.status == 200
        generator.gates[2].set()
        documents = await streaming
        assert documents[-1]["choices"][0]["finish_reason"] == "stop"
        assert await stopping


async def test_what_does_not_finish_in_time_is_told_so():
    async with drainable(gates={1: asyncio.Event()}) as (client, generator, drain):
        async with client.http.post(client.url + CHAT, json=BODY | {"stream": True}) as response:
            await response.content.readuntil(b"\n\n")
            waiting = asyncio.create_task(client.post(CHAT, BODY))
            await generator.until_open(2)
            assert not await drain.finish(0.0)
            rest = (await response.read()).decode()
        last = rest.split("\n\n")[-2].removeprefix("data: ")
        assert msgspec.json.decode(last)["error"]["code"] == "draining"
        status, document = await waiting
        assert (status, document["error"]["code"]) == (503, "draining")
        assert (generator.num_open, generator.num_closed) == (0, 2)


async def test_an_idle_server_has_nothing_to_finish():
    async with drainable() as (_, _, drain):
        assert await drain.finish(0.0)

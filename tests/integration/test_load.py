"""Many clients, slow ones, ones that leave: nobody gets a wrong text, and nothing stays."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from submodels.bundle.bundle import load_bundle
from tests.support.cloud_client import hello_for, random_rows, session_key, states, welcomed
from tests.support.event_loop import until
from tests.support.load import Client, asks, nothing_is_held, resident_bytes
from tests.support.reference import STORIES
from tests.support.stack import Stack, gather_bounded, running_stack, split_for_serving
from wire.messages import Want

pytestmark = pytest.mark.alone

MAX_GROWTH_BYTES = 24 << 20


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_for_serving(STORIES, tmp_path_factory.mktemp("load") / "m1", 1)


@asynccontextmanager
async def _loaded(
    bundles: Path, device: dict[str, Any] | None = None, cloud: dict[str, Any] | None = None
) -> AsyncIterator[tuple[Stack, Client]]:
    """Both sides without kept sessions, and a client of as many connections as it likes."""
    settings = {"kept_sessions": 0, **(device or {})}
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        running_stack(bundles, settings, cloud) as stack,
        aiohttp.ClientSession(connector=connector) as http,
    ):
        yield stack, Client(http, stack.device.url + "/v1/completions")


async def _texts(client: Client, wanted: list[Any], at_once: int) -> list[str | None]:
    return await gather_bounded([partial(client.streamed, ask) for ask in wanted], at_once)


async def test_64_streams_at_once_say_what_each_says_alone(bundles: Path) -> None:
    async with _loaded(bundles, {"max_num_seqs": 64}) as (stack, client):
        wanted = asks(64)
        together = await _texts(client, wanted, 64)
        assert together == await _texts(client, wanted, 1)
        assert len(set(together)) > 40
        await nothing_is_held(stack)


async def test_clients_that_do_not_read_delay_nobody(bundles: Path) -> None:
    """They hold their own turns and nothing else, until they are gone."""

    async with _loaded(bundles, {"max_num_seqs": 8}) as (stack, client):
        wanted = asks(8)
        alone = await _texts(client, wanted, 1)
        async with _unread(stack, num_choices=4):
            await until(lambda: stack.runtime.admission.num_running == 4)
            assert await _texts(client, wanted, 4) == alone
            assert stack.runtime.admission.num_running == 4
        await nothing_is_held(stack)


@asynccontextmanager
async def _unread(stack: Stack, num_choices: int) -> AsyncIterator[None]:
    """A client that asks for far more than fits into socket buffers, and reads nothing."""
    body = (
        '{"messages": [{"role": "user", "content": "Once"}], "stream": true, "logprobs": true,'
        f' "top_logprobs": 20, "ignore_eos": true, "max_tokens": 480, "n": {num_choices}}}'
    )
    host, port = stack.device.url.removeprefix("http://").split(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    length = f"Content-Length: {len(body)}"
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n"
    try:
        await asyncio.get_running_loop().sock_sendall(sock, (head + body).encode())
        yield
    finally:
        sock.close()


async def test_a_device_that_does_not_read_its_replies_delays_no_other(bundles: Path) -> None:
    manifest = load_bundle(bundles, "cloud").manifest

    async with _loaded(bundles) as (stack, client):
        wanted = asks(12)
        alone = await _texts(client, wanted, 1)
        hello = hello_for(manifest)
        async with welcomed(stack.cloud.link_url, hello, receive_buffer_bytes=4096) as stuck:
            await stuck.open(1, session_key(1), 512)
            rows = random_rows(256)
            for _ in range(4):
                await stuck.send(states(1, 0, rows, Want.ALL))
            assert await _texts(client, wanted, 12) == alone


@pytest.mark.parametrize(
    ("device", "cloud", "status"),
    [
        ({"max_num_seqs": 4, "max_queue": 4}, {}, 429),
        ({"max_num_seqs": 64, "max_queue": 0}, {"max_sessions": 8}, 503),
        ({"max_num_seqs": 64, "max_queue": 0}, {"capacity_tokens": 512}, 503),
    ],
    ids=["the device's queue", "the cloud's sessions", "the cloud's memory"],
)
async def test_at_four_times_the_capacity_some_are_refused_and_the_rest_is_right(
    bundles: Path, device: dict[str, Any], cloud: dict[str, Any], status: int
) -> None:
    async with _loaded(bundles, device, cloud) as (stack, client):
        wanted = asks(32, max_tokens=48)
        alone = await gather_bounded([partial(client.text, ask) for ask in wanted], 1)
        answers = await asyncio.gather(*(client.answer(ask) for ask in wanted))
        accepted = 0
        for expected, (came, headers, text) in zip(alone, answers, strict=True):
            if came == 200:
                assert text == expected
                accepted += 1
            else:
                assert came == status
                assert int(headers["Retry-After"]) >= 1
        assert 0 < accepted < 32
        await nothing_is_held(stack)
        assert await client.text(wanted[0]) == alone[0]


async def test_a_drain_under_load_lets_streams_finish_and_admits_no_more(bundles: Path) -> None:
    async with _loaded(bundles) as (stack, client):
        wanted = asks(12, max_tokens=60)
        alone = await _texts(client, wanted, 1)
        streams = asyncio.gather(*(client.streamed(ask) for ask in wanted))
        await until(lambda: stack.runtime.admission.num_running == 12)
        draining = asyncio.create_task(stack.device.drain(30.0))
        await asyncio.sleep(0)
        status, headers, text = await client.answer(wanted[0])
        assert (status, "draining" in text) == (503, True)
        assert int(headers["Retry-After"]) >= 1
        assert await streams == alone
        assert await draining
        await nothing_is_held(stack)


async def _soak(bundles: Path, num_requests: int) -> int:
    """Requests of which a third leave; the growth of memory in bytes after the first tenth."""
    draws = random.Random(5)
    async with _loaded(bundles) as (stack, client):
        wanted = asks(16)
        expected = await _texts(client, wanted, 1)

        async def one(number: int) -> None:
            ask = wanted[number % len(wanted)]
            if number % 3 == 0:
                await client.leaves_at_a_random_moment(ask, draws)
            else:
                assert await client.streamed(ask) == expected[number % len(wanted)]

        warm_up = num_requests // 10
        await gather_bounded([partial(one, number) for number in range(warm_up)], 16)
        await nothing_is_held(stack)
        before = resident_bytes()
        rest = range(warm_up, num_requests)
        await gather_bounded([partial(one, number) for number in rest], 16)
        await nothing_is_held(stack)
        return resident_bytes() - before


async def test_when_a_third_of_the_clients_leave_nothing_stays(bundles: Path) -> None:
    assert await _soak(bundles, 90) < MAX_GROWTH_BYTES


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
async def test_memory_is_flat_over_2000_requests_of_which_a_third_leave(
    bundles: Path, record_property: Any
) -> None:
    growth_bytes = await _soak(bundles, 2000)
    record_property("growth_bytes", growth_bytes)
    assert growth_bytes < MAX_GROWTH_BYTES

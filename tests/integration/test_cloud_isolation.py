"""Mistakes, lost sockets and slowness of one device, a failing engine: everyone else goes on."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import aiohttp
import numpy as np
import pytest

from cloud_server.daemon.daemon import Patience
from cloud_server.server import CloudServer
from submodels.bundle.bundle import Bundle
from tests.support.cloud_client import (
    HIDDEN,
    QUICK,
    CloudClient,
    assert_serves,
    hello_for,
    http_get,
    random_rows,
    session_key,
    states,
    until,
    welcomed,
)
from tests.support.event_loop import on_both_loops
from tests.support.fake_middle_engine import POISON, FakeMiddleEngine, deep_rows
from tests.support.world import serve_cloud
from wire.codec import encode
from wire.errors import FaultCode
from wire.messages import Close, Open, SessionId, Want

BAD_FRAMES = {
    "empty": b"",
    "unknown type": b"\xff" + bytes(40),
    "cut off": encode(Open(SessionId(2), session_key(2), 64))[:-3],
    "too long": encode(Close(SessionId(1))) + b"!",
    "a message of the cloud": encode(Close(SessionId(1)))[:0] + b"\x04" + bytes(8),
    "a payload of another length": encode(states(1, 0, random_rows(2)))[:-8],
    "rows of another width": encode(states(1, 0, np.zeros((1, 32), np.float32))),
    "more rows than allowed": encode(states(1, 0, np.zeros((600, HIDDEN), np.float32))),
    "far more than is ever read": bytes(1 << 20),
    "text": "hello",
}


@pytest.mark.parametrize("why", BAD_FRAMES)
async def test_a_bad_frame_ends_its_connection_alone(config, bundle, engine, why):
    async with serve_cloud(config, engine.load) as server:
        hello = hello_for(bundle.manifest)
        async with (
            welcomed(server.link_url, hello) as healthy,
            welcomed(server.link_url, hello) as bad,
        ):
            await assert_serves(healthy, 1, seed=1)
            await bad.open(1, session_key(77), 64)
            frame = BAD_FRAMES[why]
            if isinstance(frame, str):
                await bad.socket.send_str(frame)
            else:
                await bad.socket.send_bytes(frame)
            if why == "far more than is ever read":
                await bad.expect_closed()
                assert bad.socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
            else:
                fault = await bad.receive()
                assert fault.code in (FaultCode.BAD_FRAME, FaultCode.SHAPE_MISMATCH)
                assert fault.session == 0
                await bad.expect_closed()
            await assert_serves(healthy, 2, seed=2)
            np.testing.assert_array_equal(
                await healthy.run(1, 12, random_rows(1, seed=3)),
                deep_rows(np.concatenate([random_rows(12, seed=1), random_rows(1, seed=3)]))[12:],
            )


async def test_a_broken_websocket_leaves_the_others_alone(config, bundle, engine):
    async with serve_cloud(config, engine.load) as server:
        address = server.url.removeprefix("ws://").split(":")
        for garbage in (b"\x00" * 64, b"GET /v1/link HTTP/1.1\r\nUpgrade: nonsense\r\n\r\n"):
            reader, writer = await asyncio.open_connection(address[0], int(address[1]))
            writer.write(garbage)
            assert b"101" not in await reader.read(1024)
            writer.close()
        async with welcomed(server.link_url, hello_for(bundle.manifest)) as client:
            await assert_serves(client, 1, seed=1)


@on_both_loops
async def test_a_device_that_leaves_amid_its_pings_is_no_error(config, bundle, engine, caplog):
    caplog.set_level(logging.INFO)

    async with serve_cloud(config, engine.load) as server:
        async with welcomed(server.link_url, hello_for(bundle.manifest)) as client:
            transport = client.socket._writer.transport
            transport.write((b"\x89\x81" + bytes(4) + b"x") * 4000)
            await asyncio.sleep(0.02)
            transport.abort()
        await until(lambda: "left" in caplog.text)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_rows_that_are_not_finite_end_their_session_alone(config, bundle, engine):
    async with (
        serve_cloud(config, engine.load) as server,
        welcomed(server.link_url, hello_for(bundle.manifest)) as client,
    ):
        await client.open(1, session_key(1), 64)
        rows = random_rows(4)
        rows[2, 7] = np.nan
        # No device of ours would send them.
        message = replace(states(1, 0, random_rows(4)), payload=rows.tobytes())
        await client.send(message)
        await client.expect_fault(FaultCode.BAD_FRAME, session=1)
        await assert_serves(client, 2, seed=2)
        await until(lambda: engine.num_sequences == 1)


async def test_a_failing_step_ends_the_sessions_in_it_and_no_others(config, bundle, engine):
    async with (
        serve_cloud(config, engine.load) as server,
        welcomed(server.link_url, hello_for(bundle.manifest)) as client,
    ):
        await assert_serves(client, 1, seed=1)
        await client.open(2, session_key(2), 64)
        poison = random_rows(2)
        poison[0, 0] = POISON
        await client.send(states(2, 0, poison))
        fault = await client.expect_fault(FaultCode.INTERNAL, session=2)
        assert fault.retry_after_s > 0
        assert "planted" not in fault.message
        await assert_serves(client, 3, seed=3)
        await until(lambda: engine.num_sequences == 2)
        assert (await http_get(server.http_url + "/health"))[0] == 200


async def test_an_engine_that_fails_every_step_is_not_ready_until_it_works_again(
    config, bundle, engine
):
    async with (
        serve_cloud(config, engine.load) as server,
        welcomed(server.link_url, hello_for(bundle.manifest)) as client,
    ):
        engine.fails_always = True
        for number in (1, 2, 3):
            await client.open(number, session_key(number), 64)
            await client.send(states(number, 0, random_rows(1)))
            await client.expect_fault(FaultCode.INTERNAL, session=number)
        for path in ("/health", "/ready"):
            assert await http_get(server.http_url + path) == (
                503,
                "the engine fails every step",
            )
        engine.fails_always = False
        await assert_serves(client, 4, seed=4)
        assert (await http_get(server.http_url + "/ready"))[0] == 200


async def test_a_cloud_whose_engine_has_no_room_says_capacity(config, bundle):
    engine = FakeMiddleEngine(capacity=100)

    async with (
        serve_cloud(config, engine.load) as server,
        welcomed(server.link_url, hello_for(bundle.manifest)) as client,
    ):
        await client.open(1, session_key(1), 80)
        await client.send(Open(SessionId(2), session_key(2), 80))
        fault = await client.expect_fault(FaultCode.CAPACITY, session=2)
        assert fault.retry_after_s > 0
        await client.send(Close(SessionId(1)))
        await client.open(3, session_key(3), 80)


async def test_a_session_is_taken_up_after_a_lost_socket(config, bundle, engine):
    rows = random_rows(30)

    async with serve_cloud(config, engine.load) as server:
        hello = hello_for(bundle.manifest)
        async with welcomed(server.link_url, hello) as client:
            await client.open(1, session_key(1), 64)
            await client.run(1, 0, rows[:20], Want.LAST)
        async with welcomed(server.link_url, hello) as client:
            assert (await client.open(1, session_key(1), 64)).cached_tokens == 20
            deep = await client.run(1, 20, rows[20:])
            np.testing.assert_array_equal(deep, deep_rows(rows)[20:])


async def test_a_lost_session_gives_its_cache_back_after_its_time(config, bundle, engine):
    quick = replace(config, session_ttl_s=0.1)
    async with serve_cloud(quick, engine.load, QUICK) as server:
        async with welcomed(server.link_url, hello_for(bundle.manifest)) as client:
            await client.open(1, session_key(1), 64)
            await client.run(1, 0, random_rows(8))
            assert engine.num_sequences == 1
        await until(lambda: engine.num_sequences == 0)
        figures = server.daemon.figures()
        assert (figures.num_sessions, figures.reserved_tokens) == (0, 0)


async def test_a_device_that_asks_and_does_not_read_is_cut_while_others_go_on(
    config, bundle, engine, caplog
):
    async with (
        serve_cloud(config, engine.load, Patience(stall_timeout_s=1000.0)) as server,
        _healthy_and_stuck(server, bundle) as (healthy, stuck),
    ):
        asking = asyncio.create_task(_ask_without_reading(stuck, engine, lambda: False))
        await _assert_serves_until_alone(server, healthy)
        asking.cancel()
    assert "connection 2 cut: it does not read what it asked for" in caplog.text


async def test_a_device_that_takes_nothing_for_too_long_is_cut_while_others_go_on(
    config, bundle, engine, caplog
):
    async with (
        serve_cloud(config, engine.load, QUICK) as server,
        _healthy_and_stuck(server, bundle) as (healthy, stuck),
    ):
        transport = server.daemon._connections[2]._socket._transport
        await _ask_without_reading(stuck, engine, lambda: transport.get_write_buffer_size() > 0)
        await _assert_serves_until_alone(server, healthy)
    assert "connection 2 cut: nothing could be sent to it" in caplog.text


@contextlib.asynccontextmanager
async def _healthy_and_stuck(
    server: CloudServer, bundle: Bundle
) -> AsyncIterator[tuple[CloudClient, CloudClient]]:
    """Connections 1 and 2; the second has session 1 open and room for few bytes."""
    hello = hello_for(bundle.manifest)
    async with (
        welcomed(server.link_url, hello) as healthy,
        welcomed(server.link_url, hello, receive_buffer_bytes=4096) as stuck,
    ):
        await stuck.open(1, session_key(1), 512)
        yield healthy, stuck


async def _assert_serves_until_alone(server: CloudServer, healthy: CloudClient) -> None:
    """The healthy connection is served all the while, and after the other one is gone."""
    number = 0
    while server.daemon.figures().num_connections == 2:
        number += 1
        await assert_serves(healthy, number, seed=number)
        await healthy.send(Close(SessionId(number)))
    await assert_serves(healthy, number + 1, seed=0)


async def _ask_without_reading(
    client: CloudClient, engine: FakeMiddleEngine, is_enough: Callable[[], bool]
) -> None:
    """Ask for all rows of a long frame, again as soon as there must be credit for it."""
    rows = random_rows(512)
    while not is_enough():
        num_longest = engine.num_longest
        await client.send(states(1, 0, rows, Want.ALL))
        await until(lambda before=num_longest: engine.num_longest > before)

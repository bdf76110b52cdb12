"""A daemon over an engine with several steps in flight: they are kept full, apart and in order."""

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cloud_server import server as cloud_server
from cloud_server.server import CloudServer
from tests.support.cloud_client import (
    HIDDEN,
    CloudClient,
    hello_for,
    random_rows,
    rows_of,
    session_key,
    states,
    until,
    welcomed,
)
from tests.support.event_loop import settle
from tests.support.fake_middle_engine import POISON, deep_rows
from tests.support.fake_pipeline import BEGIN_POISON, FakePipeline
from tests.support.world import REAL, serve_cloud
from wire.errors import FaultCode
from wire.messages import Close, Fault, Open, SessionId

NUM_STAGES = 3


@pytest.fixture
def engine():
    engine = FakePipeline(NUM_STAGES)
    yield engine
    engine.end_all()
    assert engine.broken_rules == []


@pytest.fixture
def serving(config, bundle, engine):
    """Serves: a server and a function that connects a device."""

    @contextlib.asynccontextmanager
    async def serve() -> AsyncIterator[tuple[CloudServer, Any]]:
        # Steps end here when a test says so; how long they took is no measure of the engine.
        untimed = replace(config, target_step_s=0.0)
        async with serve_cloud(untimed, engine.load) as server:
            try:
                yield server, lambda: welcomed(server.link_url, hello_for(bundle.manifest))
            finally:
                engine.end_all()

    return serve


async def open_sessions(client: CloudClient, numbers) -> None:
    """Sessions without rows; the engine opens a sequence with its first ones."""
    for number in numbers:
        await client.open(number, session_key(number), 64)


async def fill(client: CloudClient, engine: FakePipeline, numbers) -> None:
    """One step under way per session, in this order."""
    for number in numbers:
        num_begun = engine.num_begun
        await client.send(states(number, 0, random_rows(4, number)))
        await until(lambda n=num_begun: engine.num_begun == n + 1)


async def expect_reply(client: CloudClient, number: int, rows, position: int = 0) -> None:
    reply = await client.receive()
    assert reply.session == number
    np.testing.assert_array_equal(rows_of(reply, HIDDEN), deep_rows(rows)[position:])


async def test_chunks_of_one_prompt_follow_each_other_through_the_stages(serving, engine):
    async with serving() as (_, connect), connect() as client:
        await open_sessions(client, [1])
        rows = random_rows(20, 1)
        for position in range(0, 20, 4):
            await client.send(states(1, position, rows[position : position + 4]))
        await until(lambda: len(engine.under_way) == NUM_STAGES)
        places = [step.batch[0].position for step in engine.under_way]
        assert places == [0, 4, 8]
        engine.end_all()
        for position in range(0, 20, 4):
            await expect_reply(client, 1, rows[: position + 4], position)


async def test_exactly_so_many_steps_are_under_way_as_the_engine_takes(serving, engine):
    async with serving() as (server, connect), connect() as client:
        await open_sessions(client, range(1, 9))
        await fill(client, engine, (1, 2, 3))
        for number in range(4, 9):
            await client.send(states(number, 0, random_rows(4, number)))
        await until(lambda: server.daemon.figures().num_waiting_sessions == 5)
        await settle()
        assert engine.num_begun == len(engine.under_way) == NUM_STAGES
        assert server.daemon.figures().num_running_sessions == 3
        # The next one begins as soon as one ends, and takes all that has waited.
        engine.end_oldest()
        await expect_reply(client, 1, random_rows(4, 1))
        await until(lambda: engine.num_begun == 4)
        assert len(engine.under_way[-1].batch) == 5
        engine.end_oldest()
        await expect_reply(client, 2, random_rows(4, 2))
        # What was answered may go on beside the others.
        again = np.concatenate([random_rows(4, 1), random_rows(2, 91)])
        await client.send(states(1, 4, again[4:]))
        await until(lambda: engine.num_begun == 5)
        assert len(engine.under_way) == NUM_STAGES
        engine.end_all()
        for number in range(3, 9):
            await expect_reply(client, number, random_rows(4, number))
        await expect_reply(client, 1, again, 4)


async def test_replies_come_in_the_order_in_which_steps_were_begun(serving, engine):
    async with serving() as (server, connect), connect() as client:
        await open_sessions(client, range(1, 4))
        await fill(client, engine, (1, 2, 3))
        _, second, third = engine.under_way
        third.may_end.set()
        second.may_end.set()
        await settle()
        assert server.daemon.figures().num_running_sessions == 3
        engine.end_all()
        for number in (1, 2, 3):
            await expect_reply(client, number, random_rows(4, number))


async def test_a_failing_step_ends_its_own_sessions_among_those_under_way(serving, engine):
    async with serving() as (server, connect), connect() as client:
        await open_sessions(client, range(1, 5))
        await fill(client, engine, [1])
        broken = random_rows(4, 2)
        broken[0, 0] = POISON
        await client.send(states(2, 0, broken))
        await until(lambda: engine.num_begun == 2)
        never_begun = random_rows(4, 3)
        never_begun[0, 0] = BEGIN_POISON
        await client.send(states(3, 0, never_begun))
        await until(lambda: engine.num_begun == 3)
        await client.send(states(4, 0, random_rows(4, 4)))
        await until(lambda: server.daemon.figures().num_waiting_sessions == 1)
        engine.end_oldest()
        await expect_reply(client, 1, random_rows(4, 1))
        engine.end_all()
        await client.expect_fault(FaultCode.INTERNAL, session=2)
        await client.expect_fault(FaultCode.INTERNAL, session=3)
        await expect_reply(client, 4, random_rows(4, 4))
        both = np.concatenate([random_rows(4, 1), random_rows(3, 91)])
        await client.send(states(1, 4, both[4:]))
        await expect_reply(client, 1, both, 4)
        await until(lambda: engine.num_sequences == 2)
        assert server.daemon.figures().num_sessions == 2


async def test_an_opening_refused_in_a_step_under_way_ends_that_session_alone(serving, engine):
    async with serving() as (_, connect), connect() as client:
        await open_sessions(client, [1])
        await fill(client, engine, [1])
        engine.refused_opens = {2}
        await open_sessions(client, [2, 3])
        # Their steps are begun before it is known that one could not be opened.
        for number in (2, 3):
            await client.send(states(number, 0, random_rows(4, number)))
        await until(lambda: engine.num_begun == 2)
        engine.end_all()
        await expect_reply(client, 1, random_rows(4, 1))
        await client.expect_fault(FaultCode.CAPACITY, session=2)
        await expect_reply(client, 3, random_rows(4, 3))


async def test_a_mixed_crowd_gets_its_own_rows_and_leaves_nothing(serving, engine):
    """Eight sessions of two devices in chunks, cuts and single rows; steps end when they like."""
    drawn = random.Random(7)

    async def session(client: CloudClient, inbox: asyncio.Queue, number: int) -> None:
        text = np.empty((0, HIDDEN), np.float32)
        await client.send(Open(SessionId(number), session_key(number), 64))
        await inbox.get()
        for turn in range(12):
            position = max(0, len(text) - drawn.choice([0, 0, 1, 3]))
            size = drawn.randint(1, min(8, 64 - position))
            text = np.concatenate([text[:position], random_rows(size, 100 * number + turn)])
            await client.send(states(number, position, text[position:]))
            reply = await inbox.get()
            np.testing.assert_array_equal(rows_of(reply, HIDDEN), deep_rows(text)[position:])
        await client.send(Close(SessionId(number)))

    async def device(client: CloudClient, numbers: range) -> None:
        inboxes = {number: asyncio.Queue() for number in numbers}

        async def sort() -> None:
            while True:
                message = await client.receive()
                assert not isinstance(message, Fault), message
                inboxes[message.session].put_nowait(message)

        await first_of(
            asyncio.gather(*(session(client, inbox, n) for n, inbox in inboxes.items())), sort()
        )

    async def end_steps() -> None:
        while True:
            await asyncio.sleep(0)
            if engine.under_way and (len(engine.under_way) == NUM_STAGES or drawn.random() < 0.02):
                engine.end_oldest()

    async with serving() as (server, connect), connect() as one, connect() as two:
        # Numbers are a connection's own; keys are not.
        work = asyncio.gather(device(one, range(1, 5)), device(two, range(5, 9)))
        await first_of(work, end_steps())
        await until(lambda: server.daemon.figures().reserved_tokens == 0)
        await until(lambda: engine.num_sequences == 0)


async def first_of(*tasks: Any) -> None:
    """Wait for the first of these, with what it raises, and end the others."""
    running = [asyncio.ensure_future(task) for task in tasks]
    done, pending = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()


async def test_a_stop_does_not_wait_for_ever_for_steps_under_way(
    config, bundle, engine, monkeypatch
):
    monkeypatch.setattr(cloud_server, "_STOP_ENGINE_S", 0.05)

    server = CloudServer(config, engine.load, REAL.clock)
    await server.open()
    await server.load()
    async with welcomed(server.link_url, hello_for(bundle.manifest)) as client:
        await open_sessions(client, [1, 2])
        await fill(client, engine, [1, 2])
        assert await server.close() is False
        engine.end_all()
        await until(lambda: not engine_threads())


def engine_threads() -> list[str]:
    """Threads of any engine that live."""
    return [t.name for t in threading.enumerate() if t.name.startswith("engine")]

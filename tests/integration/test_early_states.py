"""A prompt's chunks go up behind Open, not behind Opened, and a refusal costs nobody anything.

A held cloud answers nothing, while the relay in front of it takes and keeps what the device sends.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from device_runtime.generation.request import CloudUnavailableError
from tests.support.event_loop import is_virtual, on_sockets_and_in_memory, settle, until
from tests.support.fake_cloud import FakeCloud, fault
from tests.support.fake_runtime import KEEP_SOME, PROMPT, Bench, bench, expected, request, rest
from tests.support.frame_relay import FrameRelay, frame_relay
from tests.support.memory_link import CALL_S, MemoryNetwork
from wire.codec import decode
from wire.errors import FaultCode
from wire.messages import Close, Credit, Hello, Open, Opened, States, Welcome

pytestmark = pytest.mark.event_loop("virtual")

HELD_S = 5.0


@asynccontextmanager
async def relayed(
    cloud: FakeCloud, **settings: object
) -> AsyncIterator[tuple[Bench, FrameRelay | MemoryNetwork]]:
    """A runtime whose frames pass a relay, or a network in memory."""
    if is_virtual():
        async with bench(cloud, drafter="none", **settings) as it:
            yield it, it.network
        return
    await cloud.start()
    port = cloud.port
    await cloud.stop()
    async with frame_relay(f"ws://127.0.0.1:{port}") as relay:
        cloud.config = partial(cloud.config, url=relay.url)
        async with bench(cloud, drafter="none", **settings) as it:
            yield it, relay


def kinds(frames):
    return [type(decode(frame)) for frame in frames]


def positions(frames):
    """Where the frames of rows begin, and behind the last of them."""
    found = [message for frame in frames if isinstance(message := decode(frame), States)]
    return [states.position for states in found] + [found[-1].position + found[-1].num_rows]


@on_sockets_and_in_memory
@pytest.mark.parametrize(
    ("chunk_tokens", "starts"), [(0, [0, 20]), (16, [0, 16, 20]), (7, [0, 7, 14, 20])]
)
async def test_a_whole_prompt_leaves_before_the_cloud_has_said_that_the_session_is_open(  # W26
    chunk_tokens, starts
):
    async with relayed(FakeCloud(), chunk_tokens=chunk_tokens) as (it, relay):
        it.cloud.going.clear()
        wanted = request(PROMPT)
        generation = it.runtime.generate(wanted, "test")
        reading = asyncio.ensure_future(rest(generation))
        await until(lambda: kinds(relay.up)[2:] == [States] * (len(starts) - 1))
        assert kinds(relay.up)[:2] == [Hello, Open]
        assert positions(relay.up) == starts
        assert kinds(relay.down) == [Welcome]
        it.cloud.going.set()
        assert await reading == expected(wanted)
        assert (generation.stats.num_chunks, generation.stats.num_recoveries) == (
            len(starts) - 1,
            0,
        )
        await it.freed()


async def test_no_more_rows_leave_early_than_the_first_credit_lets_through():  # W20

    cloud = FakeCloud(window_tokens=16, max_frame_tokens=4)
    async with relayed(cloud, chunk_tokens=4) as (it, relay):
        it.cloud.going.clear()
        reading = asyncio.ensure_future(it.ids(request(PROMPT)))
        # A quarter of the window is kept for verifications.
        await until(lambda: kinds(relay.up).count(States) == 3)
        await settle()
        assert positions(relay.up) == [0, 4, 8, 12]
        it.cloud.going.set()
        assert await reading == expected(request(PROMPT))
        await it.freed()


async def test_the_rows_behind_a_shared_beginning_follow_the_fork_at_once():  # W29

    async with relayed(FakeCloud(), kept=KEEP_SOME) as (it, relay):
        await it.ids(request([1, 2, 3, 4, 5, 6, *range(16)], 6))
        await until(lambda: kinds(relay.down)[-1] is not Credit)
        it.cloud.going.clear()
        num_up, num_down = len(relay.up), len(relay.down)
        short = request([1, 2, 3, 4, 5, 6, 9, 9], 6)
        generation = it.runtime.generate(short, "test")
        reading = asyncio.ensure_future(rest(generation))
        await until(lambda: kinds(relay.up)[num_up:] == [Open, States])
        assert positions(relay.up[num_up:]) == [6, 8]
        assert Opened not in kinds(relay.down[num_down:])
        it.cloud.going.set()
        assert await reading == expected(short)
        assert generation.stats.num_reused_tokens == 6


async def test_a_fork_that_is_refused_behind_its_rows_uploads_the_prompt_instead():
    async with relayed(FakeCloud(), kept=KEEP_SOME) as (it, relay):
        await it.ids(request([1, 2, 3, 4, 5, 6, 7], 2))
        it.cloud.refuse_open = [fault(FaultCode.POSITION_MISMATCH)]
        it.cloud.going.clear()
        num_up = len(relay.up)
        second = request([1, 2, 3, 4, 5, 6, 7, 8], 40)
        generation = it.runtime.generate(second, "test")
        reading = asyncio.ensure_future(rest(generation))
        await until(lambda: kinds(relay.up)[num_up:] == [Open, States])
        it.cloud.going.set()
        assert await reading == expected(second)
        assert generation.stats.num_reused_tokens == 0
        assert it.engine.num_open == it.num_kept


async def test_a_session_that_is_taken_up_sends_nothing_before_it_is_opened():  # W27, W28

    cloud = FakeCloud(keep_tokens=96)
    async with relayed(cloud, reconnect_timeout_s=60.0) as (it, relay):
        wanted = request(PROMPT, 10)
        generation = it.runtime.generate(wanted, "test")
        ids = [token.id for token in (await anext(generation)).tokens]
        num_up = len(relay.up)
        it.cloud.opening.clear()
        it.cloud.vanish()
        reading = asyncio.ensure_future(rest(generation))
        await until(lambda: kinds(relay.up)[num_up:][-2:] == [Hello, Open])
        await settle()
        assert kinds(relay.up)[num_up:][-2:] == [Hello, Open]
        it.cloud.opening.set()
        assert ids + await reading == expected(wanted)
        await it.freed()


@pytest.mark.parametrize(
    "refusal",
    [
        fault(FaultCode.CAPACITY, 4.0),
        fault(FaultCode.CAPACITY),
        fault(FaultCode.TOO_MANY_SESSIONS, 4.0),
        fault(FaultCode.INTERNAL, 4.0),
        fault(FaultCode.UNKNOWN_SESSION),
    ],
)
async def test_a_refused_session_is_told_once_and_the_credit_of_its_rows_comes_back(refusal):
    # Two prompts use up the credit that the outbox gives to prompts.
    async with relayed(FakeCloud(window_tokens=54, max_frame_tokens=20)) as (it, relay):
        wanted = request(PROMPT, 4)
        for attempt in range(1, 6):
            it.cloud.refuse_open = [refusal]
            it.cloud.going.clear()
            num_up = len(relay.up)
            reading = asyncio.ensure_future(it.ids(wanted))
            await until(lambda num_up=num_up: kinds(relay.up)[num_up:] == [Open, States])
            it.cloud.going.set()
            with pytest.raises(CloudUnavailableError, match=refusal.code.name) as caught:
                await reading
            assert caught.value.retry_after_s == (refusal.retry_after_s or 1.0)
            assert len(it.cloud.opens) == attempt, "a refusal is not tried again"
            await it.freed()
        assert Close not in kinds(relay.up), "the cloud has ended them itself"
        assert await it.ids(wanted) == expected(wanted)
        assert kinds(relay.up).count(Hello) == 1, "the connection is the first one"
        await it.freed()


async def test_kept_sessions_make_room_when_the_cloud_refuses_behind_the_first_rows():
    async with relayed(FakeCloud(), kept=KEEP_SOME) as (it, relay):
        await it.ids(request([1, 2, 3, 4, 5], 2))
        it.cloud.refuse_open = [fault(FaultCode.CAPACITY, 9.0)]
        it.cloud.going.clear()
        num_up = len(relay.up)
        wanted = request([9, 9, 9, 9, 9], 2)
        generation = it.runtime.generate(wanted, "test")
        reading = asyncio.ensure_future(rest(generation))
        await until(lambda: kinds(relay.up)[num_up:] == [Open, States])
        it.cloud.going.set()
        assert await reading == expected(wanted)
        assert generation.stats.num_recoveries == 0
        await it.freed(num_kept=1)


@pytest.mark.parametrize("keep_tokens", [0, 96])
async def test_a_socket_lost_before_the_session_was_opened_begins_again(keep_tokens):
    cloud = FakeCloud(keep_tokens=keep_tokens)
    async with relayed(cloud, reconnect_timeout_s=60.0) as (it, relay):
        it.cloud.going.clear()
        wanted = request(PROMPT)
        generation = it.runtime.generate(wanted, "test")
        reading = asyncio.ensure_future(rest(generation))
        await until(lambda: kinds(relay.up) == [Hello, Open, States])
        it.cloud.vanish()
        await until(lambda: it.runtime.ready() is not None)
        it.cloud.going.set()
        assert await reading == expected(wanted)
        assert generation.stats.num_recoveries == 0
        await it.freed()


@pytest.mark.parametrize("code", [FaultCode.CAPACITY, FaultCode.INTERNAL])
async def test_a_session_that_was_opened_and_ended_at_its_first_rows_is_asked_for_again(code):
    """An engine may refuse what was admitted; Opened and Fault then come together."""

    async with relayed(FakeCloud(), reconnect_timeout_s=60.0) as (it, relay):
        it.cloud.refuse_states = fault(code, 0.01)
        it.cloud.going.clear()
        wanted = request(PROMPT)
        generation = it.runtime.generate(wanted, "test")
        reading = asyncio.ensure_future(rest(generation))
        await until(lambda: kinds(relay.up) == [Hello, Open, States])
        it.cloud.going.set()
        await until(lambda: len(it.cloud.opens) > 1)
        it.cloud.refuse_states = None
        assert await reading == expected(wanted)
        assert generation.stats.num_recoveries > 0
        await it.freed()


@pytest.mark.parametrize("after_s", [0.0, 0.004, 0.012, 0.018, 0.025, 5.0])
async def test_a_generation_cancelled_before_its_session_was_opened_frees_both_sides(after_s):
    async with relayed(FakeCloud(), chunk_tokens=7) as (it, relay):
        it.cloud.going.clear()
        task = asyncio.ensure_future(it.ids(request(PROMPT)))
        await until(lambda: Open in kinds(relay.up))
        await asyncio.sleep(after_s)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        it.cloud.going.set()
        await until(lambda: Close in kinds(relay.up))
        await it.freed()


async def test_the_wait_for_a_session_whose_rows_are_under_way_is_a_wait_for_replies():
    async with relayed(FakeCloud(), chunk_tokens=7) as (it, relay):
        it.cloud.going.clear()
        generation = it.runtime.generate(request(PROMPT, 1), "test")
        reading = asyncio.ensure_future(rest(generation))
        await until(lambda: kinds(relay.up).count(States) == 3)
        await asyncio.sleep(HELD_S)
        it.cloud.going.set()
        await reading
        stats = generation.stats
        assert stats.input_s == pytest.approx(3 * CALL_S)
        assert stats.wait_s == pytest.approx(HELD_S, abs=0.01)
        known = stats.open_s + stats.input_s + stats.send_s + stats.wait_s + stats.output_s
        assert known + stats.queue_s == pytest.approx(stats.total_s)

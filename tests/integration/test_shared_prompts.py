"""Prompts that begin alike while both run: the beginning goes up once, nobody waits in vain."""

import asyncio
import random

import pytest

from device_runtime.generation.request import CloudUnavailableError, SamplingParams
from tests.support.event_loop import on_sockets_and_in_memory, settle, until
from tests.support.fake_cloud import FakeCloud, fault
from tests.support.fake_model import FakeDeviceEngine
from tests.support.fake_runtime import KEEP_NONE, KEEP_SOME, bench, expected, request
from tests.support.memory_cloud import MemoryCloud
from wire.codec import decode
from wire.errors import FaultCode
from wire.messages import NO_SESSION, Open, Reply, States

pytestmark = pytest.mark.event_loop("virtual")

BEGINNING = [(7 * i * i + 3) % 16 for i in range(70)]
"""Long enough to be waited for while nothing is known of the link."""


def ending(*tokens, num_tokens=5, **fields):
    return request([*BEGINNING, *tokens], num_tokens, **fields)


async def answered(it, wanted):
    """An answer, which is the unsplit model's, and what it took."""
    generation = it.runtime.generate(wanted, "test")
    ids = [token.id async for emission in generation for token in emission.tokens]
    assert ids == expected(wanted, it.engine.num_output_layers)
    return generation.stats


def prompt_rows(it):
    """Rows that went up in chunks of prompts."""
    return sum(frame.num_rows for frame in it.cloud.frames if frame.position < len(BEGINNING) + 2)


@on_sockets_and_in_memory
@pytest.mark.parametrize("num_output_layers", [0, 2])
async def test_the_beginning_of_two_prompts_goes_up_once(num_output_layers):
    engine = FakeDeviceEngine(num_output_layers)
    async with bench(engine=engine, kept=KEEP_SOME, drafter="none", chunk_tokens=16) as it:
        first, second = await asyncio.gather(answered(it, ending(1, 2)), answered(it, ending(3, 4)))
        assert (first.num_reused_tokens, second.num_reused_tokens) == (0, len(BEGINNING))
        assert prompt_rows(it) == len(BEGINNING) + 4
        plain, copy = it.cloud.opens
        assert (plain.fork_of, copy.fork_of) == (NO_SESSION, plain.session)
        assert copy.fork_tokens == len(BEGINNING)
        await it.freed(num_kept=2)


async def test_a_copy_is_asked_for_as_soon_as_it_is_cached_and_not_when_the_first_has_ended():
    async with bench(kept=KEEP_SOME, drafter="none", chunk_tokens=35) as it:
        stream = it.runtime.generate(ending(1, 2, num_tokens=20), "test")
        await anext(stream)
        # In the middle of its answer there is nothing to wait for.
        stats = await answered(it, ending(3))
        assert stats.num_reused_tokens == len(BEGINNING)
        ids = [token.id async for emission in stream for token in emission.tokens]
        assert ids == expected(ending(1, 2, num_tokens=20))[1:]


async def test_as_many_as_begin_alike_are_copies_of_one():
    async with bench(kept=KEEP_SOME, drafter="none", chunk_tokens=16) as it:
        all_stats = await asyncio.gather(*(answered(it, ending(n, n)) for n in range(6)))
        reused = [stats.num_reused_tokens for stats in all_stats]
        assert reused == [0, *[len(BEGINNING)] * 5]
        assert prompt_rows(it) == len(BEGINNING) + 12


async def test_choices_of_one_prompt_send_it_once():
    async with bench(kept=KEEP_SOME, drafter="none", chunk_tokens=16) as it:
        choices = [ending(1, 2, sampling=SamplingParams(seed=n)) for n in range(4)]
        await asyncio.gather(*(answered(it, choice) for choice in choices))
        assert prompt_rows(it) == len(BEGINNING) + 2 + 3


async def test_choices_that_continue_a_kept_conversation_share_what_is_new_as_well():
    async with bench(kept=KEEP_SOME, drafter="none") as it:
        await answered(it, request(BEGINNING[:10], 80))
        text = [*BEGINNING[:10], *expected(request(BEGINNING[:10], 80))[:70], 5, 5, 5, 5]
        num_before = len(it.cloud.frames)
        choices = [request(text, 4, sampling=SamplingParams(seed=n)) for n in range(3)]
        await asyncio.gather(*(answered(it, choice) for choice in choices))
        sent = sum(frame.num_rows for frame in it.cloud.frames[num_before:])
        # The new tokens once, the last of them for each, and three rounds of one row each.
        assert sent == 4 + 2 + 3 * 3


@pytest.mark.parametrize("is_at_once", [False, True])
async def test_what_the_first_does_not_bring_to_an_end_the_second_sends_itself(is_at_once):
    async with bench(kept=KEEP_SOME, drafter="none", chunk_tokens=16) as it:
        it.cloud.opening.clear()
        first = asyncio.ensure_future(answered(it, ending(1, 2)))
        if not is_at_once:
            await until(lambda: len(it.network.up) > 2)
        second = asyncio.ensure_future(answered(it, ending(3, 4)))
        await settle()
        assert not second.done()
        first.cancel()
        it.cloud.opening.set()
        assert (await second).num_reused_tokens == 0
        await it.freed(num_kept=1)


async def test_who_waits_may_leave():
    async with bench(kept=KEEP_SOME, drafter="none", chunk_tokens=16) as it:
        it.cloud.opening.clear()
        first = asyncio.ensure_future(answered(it, ending(1, 2)))
        second = asyncio.ensure_future(answered(it, ending(3, 4)))
        third = asyncio.ensure_future(answered(it, ending(5, 6)))
        await settle()
        second.cancel()
        it.cloud.opening.set()
        await asyncio.gather(first, second, return_exceptions=True)
        assert (await third).num_reused_tokens == len(BEGINNING)
        assert len(it.cloud.opens) == 2
        await it.freed(num_kept=2)


async def test_a_first_that_is_refused_leaves_the_second_to_itself():
    async with bench(kept=KEEP_SOME, drafter="none") as it:
        it.cloud.refuse_open = [fault(FaultCode.CAPACITY)]
        first, second = await asyncio.gather(
            answered(it, ending(1)), answered(it, ending(3)), return_exceptions=True
        )
        assert isinstance(first, CloudUnavailableError)
        assert second.num_reused_tokens == 0


async def test_a_copy_that_is_refused_goes_up_whole():
    async with bench(kept=KEEP_SOME, drafter="none", chunk_tokens=16) as it:
        first = asyncio.ensure_future(answered(it, ending(1)))
        await until(lambda: len(it.cloud.opens) == 1)
        it.cloud.refuse_open = [fault(FaultCode.POSITION_MISMATCH)]
        assert (await answered(it, ending(3))).num_reused_tokens == 0
        await first


async def test_a_short_beginning_is_not_waited_for():
    async with bench(kept=KEEP_SOME, drafter="none") as it:
        it.cloud.opening.clear()
        both = [asyncio.ensure_future(answered(it, request([*BEGINNING[:12], n]))) for n in (1, 2)]
        await until(lambda: sum(isinstance(decode(frame), Open) for frame in it.network.up) == 2)
        it.cloud.opening.set()
        assert [stats.num_reused_tokens for stats in await asyncio.gather(*both)] == [0, 0]


async def test_nothing_is_shared_where_nothing_is_reused():
    async with bench(kept=KEEP_NONE, drafter="none") as it:
        both = await asyncio.gather(answered(it, ending(1)), answered(it, ending(2)))
        assert [stats.num_reused_tokens for stats in both] == [0, 0]


async def test_nobody_waits_for_who_has_lost_the_cloud():
    cloud = FakeCloud(keep_tokens=0)
    async with bench(
        cloud, kept=KEEP_SOME, drafter="none", chunk_tokens=16, reconnect_timeout_s=60.0
    ) as it:
        is_first = iter([False, True])
        cloud.vanish_on = lambda _: "unseen" if next(is_first, False) else None
        await asyncio.gather(answered(it, ending(1, 2)), answered(it, ending(3, 4)))
        await it.freed(num_kept=2)


@pytest.mark.parametrize("seed", range(16))
async def test_crowds_that_begin_alike_say_what_each_would_alone(seed):
    """On the cloud as it is in production, which refuses what is not cached, with lost sockets."""
    draws = random.Random(seed)
    cloud, engine = MemoryCloud(row_s=0.001), FakeDeviceEngine(draws.choice([0, 2]))
    settings = {"drafter": draws.choice(["ngram", "none"]), "chunk_tokens": draws.choice([5, 16])}
    async with bench(cloud, engine, KEEP_SOME, reconnect_timeout_s=60.0, **settings) as it:

        async def one(number):
            await asyncio.sleep(draws.choice([0.0, draws.uniform(0, 0.5)]))
            shared = BEGINNING[: draws.choice([10, 66, 70, 70])]
            wanted = request([*shared, number], draws.randint(1, 12))
            reading = asyncio.ensure_future(answered(it, wanted))
            if draws.random() < 0.25:
                await asyncio.sleep(draws.uniform(0, 0.4))
                reading.cancel()
            result = (await asyncio.gather(reading, return_exceptions=True))[0]
            if isinstance(result, Exception):
                raise result
            return 0 if isinstance(result, BaseException) else result.num_reused_tokens

        for moment_s in draws.choice([[], [0.2], [0.1, 0.6]]):
            asyncio.get_running_loop().call_later(moment_s, it.network.cut)
        reused = await asyncio.gather(*(one(n) for n in range(10)))
        assert sum(reused) >= 10
        await until(lambda: it.engine.num_open == it.num_kept)
        assert len(it.runtime._places._running) == 0


async def test_what_is_asked_for_was_answered_before():
    """W29: of the source so much is cached, and no frame under way begins before its end."""
    async with bench(kept=KEEP_SOME, drafter="none", chunk_tokens=8) as it:
        both = (ending(1, 2, num_tokens=4), ending(3, 4, num_tokens=4))
        await asyncio.gather(*(answered(it, wanted) for wanted in both))
        [copy] = [
            m for frame in it.network.up if isinstance(m := decode(frame), Open) and m.fork_of
        ]
        place = next(i for i, frame in enumerate(it.network.up) if decode(frame) == copy)
        starts = [
            m.position
            for frame in it.network.up[place:]
            if isinstance(m := decode(frame), States) and m.session == copy.fork_of
        ]
        answered_to = [
            m.cached_tokens for f in it.network.down if isinstance(m := decode(f), Reply)
        ]
        assert min(starts) >= copy.fork_tokens
        assert max(answered_to) >= copy.fork_tokens

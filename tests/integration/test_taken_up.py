"""A kept conversation outlives its socket: the next turn takes it up by its key, or replays it."""

import asyncio
import random

import pytest

from device_runtime.generation.request import SamplingParams
from tests.support.event_loop import on_sockets_and_in_memory, until
from tests.support.fake_cloud import FakeCloud, fault
from tests.support.fake_model import FakeDeviceEngine
from tests.support.fake_runtime import KEEP_SOME, PROMPT, Bench, bench, expected, request
from tests.support.memory_cloud import MemoryCloud
from wire.codec import decode
from wire.errors import FaultCode
from wire.messages import NO_SESSION, Open, States

pytestmark = pytest.mark.event_loop("virtual")

REPETITIVE = SamplingParams(seed=7, logit_bias={3: 30.0, 5: 31.0})
"""Two tokens alternate at random: prompt lookup always drafts, and is right half of the time."""


async def cut(it: Bench) -> None:
    """Lose the socket, and wait for the next one."""
    num_connections = it.link.num_connections
    it.cloud.vanish()
    await until(lambda: it.link.num_connections > num_connections)


async def answered(it: Bench, wanted):
    """An answer, which is the unsplit model's, and what it took."""
    generation = it.runtime.generate(wanted, "test")
    ids = [token.id async for emission in generation for token in emission.tokens]
    assert ids == expected(wanted, it.engine.num_output_layers)
    return ids, generation.stats


def num_rows(frames):
    return sum(frame.num_rows for frame in frames)


@on_sockets_and_in_memory
@pytest.mark.parametrize("num_output_layers", [0, 2])
async def test_every_turn_after_a_cut_sends_only_what_is_new(num_output_layers):
    cloud, engine = FakeCloud(keep_tokens=96), FakeDeviceEngine(num_output_layers)
    async with bench(cloud, engine, KEEP_SOME, drafter="none") as it:
        text = PROMPT
        for turn in range(5):
            num_before = len(it.cloud.frames)
            answer, stats = await answered(it, request(text, 6, sampling=REPETITIVE))
            if turn > 0:
                num_new = len(text) - stats.num_reused_tokens
                assert num_new == 4, "the last token of the answer and three of the next turn"
                assert num_rows(it.cloud.frames[num_before:]) == num_new + 5
            text = [*text, *answer, turn, 9, 9]
            await cut(it)
        assert it.num_kept == 1


async def test_rows_follow_the_question_at_once():
    async with bench(FakeCloud(keep_tokens=96), kept=KEEP_SOME, drafter="none") as it:
        answer, _ = await answered(it, request(PROMPT, 40))
        await cut(it)
        num_up = len(it.network.up)
        it.cloud.going.clear()
        wanted = request([*PROMPT, *answer[:10], 9], 5)
        reading = asyncio.ensure_future(answered(it, wanted))
        await until(lambda: len(it.network.up) == num_up + 2)
        opening, states = (decode(frame) for frame in it.network.up[num_up:])
        assert isinstance(opening, Open)
        assert isinstance(states, States)
        assert opening.key == it.cloud.opens[0].key
        assert (opening.fork_of, states.position) == (NO_SESSION, len(PROMPT) + 10)
        it.cloud.going.set()
        await reading
        await it.freed(num_kept=1)


@on_sockets_and_in_memory
@pytest.mark.parametrize("keep_tokens", [0, 7])
async def test_what_the_cloud_has_lost_goes_up_again(keep_tokens):
    async with bench(FakeCloud(keep_tokens=keep_tokens), kept=KEEP_SOME, drafter="none") as it:
        answer, _ = await answered(it, request(PROMPT, 40))
        await cut(it)
        wanted = request([*PROMPT, *answer[:10], 9], 5)
        _, stats = await answered(it, wanted)
        assert stats.num_reused_tokens == 0
        assert sum(chunk.num_tokens for chunk in stats.chunks) == len(wanted.prompt_ids)
        await it.freed(num_kept=1)


@on_sockets_and_in_memory
async def test_a_copy_of_a_lost_origin_takes_the_origin_up_first():
    async with bench(FakeCloud(keep_tokens=96), kept=KEEP_SOME) as it:
        long = request([*range(6), *range(16), *range(16)], 6)
        await answered(it, long)
        await cut(it)
        _, stats = await answered(it, request([*range(6), 9, 9], 6))
        assert stats.num_reused_tokens == 6
        first, origin, copy = it.cloud.opens
        assert (origin.key, origin.fork_of) == (first.key, NO_SESSION)
        assert copy.fork_of == origin.session
        # The origin is as good as before.
        _, stats = await answered(it, request([*long.prompt_ids, *expected(long)], 6))
        assert stats.num_reused_tokens >= len(long.prompt_ids)
        await it.freed(num_kept=2)


@on_sockets_and_in_memory
async def test_an_origin_that_the_cloud_has_lost_is_given_up():
    async with bench(FakeCloud(keep_tokens=0), kept=KEEP_SOME) as it:
        await answered(it, request([*range(6), *range(16), *range(16)], 6))
        await cut(it)
        _, stats = await answered(it, request([*range(6), 9, 9], 6))
        assert stats.num_reused_tokens == 0
        await it.freed(num_kept=1)


async def test_what_is_lost_before_the_first_token_does_not_count_as_reused():
    cloud = FakeCloud(keep_tokens=96)
    async with bench(cloud, kept=KEEP_SOME, drafter="none", reconnect_timeout_s=60.0) as it:
        answer, _ = await answered(it, request(PROMPT, 40))
        cloud.keep_tokens = 11
        cloud.vanish_on = lambda states: "unseen" if len(it.cloud.opens) == 1 else None
        _, stats = await answered(it, request([*PROMPT, *answer[:10], 9], 5))
        assert (stats.num_recoveries, stats.num_reused_tokens) == (1, 11)


async def test_a_cloud_without_room_to_take_it_up_is_asked_for_an_empty_session():
    async with bench(FakeCloud(keep_tokens=96), kept=KEEP_SOME) as it:
        answer, _ = await answered(it, request(PROMPT, 40))
        await cut(it)
        it.cloud.refuse_open = [fault(FaultCode.CAPACITY, 1.0)]
        _, stats = await answered(it, request([*PROMPT, *answer[:10], 9], 5))
        assert stats.num_reused_tokens == 0
        await it.freed(num_kept=1)


async def test_a_link_lost_while_it_is_taken_up_is_not_the_end_of_it():
    cloud = FakeCloud(keep_tokens=96)
    async with bench(cloud, kept=KEEP_SOME, drafter="none", reconnect_timeout_s=60.0) as it:
        answer, _ = await answered(it, request(PROMPT, 40))
        await cut(it)
        it.cloud.opening.clear()
        wanted = request([*PROMPT, *answer[:10], 9], 5)
        reading = asyncio.ensure_future(answered(it, wanted))
        await until(lambda: isinstance(decode(it.network.up[-1]), States))
        it.cloud.vanish()
        it.cloud.opening.set()
        _, stats = await reading
        assert stats.num_reused_tokens == len(PROMPT) + 10
        await it.freed(num_kept=1)


async def test_what_a_stopped_cloud_held_is_not_asked_for():
    async with bench(MemoryCloud(), kept=KEEP_SOME) as it:
        await answered(it, request(PROMPT, 10))
        stopped, it.network.cloud = it.cloud, MemoryCloud()
        await stopped.stop()
        await until(lambda: it.link.num_connections == 2)
        num_up = len(it.network.up)
        await answered(it, request([*PROMPT, 1, 2, 3], 10))
        opens = [m for frame in it.network.up[num_up:] if isinstance(m := decode(frame), Open)]
        assert len(opens) == 1, "a new session, and nothing before it"


async def test_another_replica_knows_nothing_and_the_prompt_goes_up_again():
    async with bench(MemoryCloud(), kept=KEEP_SOME) as it:
        answer, _ = await answered(it, request(PROMPT, 10))
        it.network.cloud = MemoryCloud()
        it.network.cut()
        await until(lambda: it.link.num_connections == 2)
        _, stats = await answered(it, request([*PROMPT, *answer, 3], 10))
        assert stats.num_reused_tokens == 0


@pytest.mark.parametrize("seed", range(12))
async def test_conversations_say_the_same_however_often_their_socket_is_cut(seed):
    """A cloud as it is in production, and drafts that are sent on behind undecided ones."""
    draws = random.Random(seed)
    settings = {"drafter": draws.choice(["ngram", "none"]), "chunk_tokens": 8}
    cloud = MemoryCloud(session_ttl_s=60.0)
    async with bench(cloud, kept=KEEP_SOME, reconnect_timeout_s=60.0, **settings) as it:
        text, num_reused = PROMPT[:12], 0
        for _ in range(8):
            moment_s = draws.choice([None, 0.0, draws.uniform(0, 0.3)])
            if moment_s is not None:
                asyncio.get_running_loop().call_later(moment_s, it.network.cut)
            wanted = request(text, draws.randint(3, 12), sampling=REPETITIVE)
            answer, stats = await answered(it, wanted)
            num_reused += stats.num_reused_tokens
            # Another turn of this conversation, or of an earlier state of it.
            text = [*[*text, *answer][: draws.randint(8, 60)], draws.randrange(16)]
            it.network.cut()
            await asyncio.sleep(draws.choice([0.0, 2.0, 20.0]))
        assert num_reused > 30
        assert it.engine.num_open == it.num_kept

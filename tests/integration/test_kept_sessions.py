"""Finished sessions are kept for a conversation's next turn, and given up when they must be."""

import asyncio
from dataclasses import replace

import pytest

from device_runtime.generation.request import CloudUnavailableError, SamplingParams
from tests.support.event_loop import on_sockets_and_in_memory, until
from tests.support.fake_cloud import FakeCloud, fault
from tests.support.fake_runtime import KEEP_SOME, PROMPT, bench, expected, request
from wire.codec import STATES
from wire.errors import FaultCode

pytestmark = pytest.mark.event_loop("virtual")

REPETITIVE = SamplingParams(seed=7, logit_bias={3: 30.0, 5: 31.0})
"""Two tokens alternate at random: prompt lookup always drafts, and is right half of the time."""


@on_sockets_and_in_memory
async def test_a_next_turn_continues_the_cached_conversation_and_says_the_same():
    async with bench(kept=KEEP_SOME, chunk_tokens=5) as it:
        turn = request(PROMPT, 8)
        answer = await it.ids(turn)
        for follow_up in ([3, 1], [4]):
            text = [*turn.prompt_ids, *answer, *follow_up]
            turn = request(text, 8)
            num_computed = it.engine.num_input_tokens
            generation = it.runtime.generate(turn, "test")
            answer = [t.id async for emission in generation for t in emission.tokens]
            assert answer == expected(turn)
            assert generation.stats.num_reused_tokens >= len(text) - len(follow_up) - 1
            assert it.engine.num_input_tokens - num_computed < len(text)
        assert it.num_kept == 1
        await it.freed(num_kept=1)


async def test_a_continued_session_goes_on_in_later_epochs_and_counts_its_own_bytes():
    async with bench(kept=KEEP_SOME, drafter="ngram") as it:
        num_frames, epochs, text = 0, [], PROMPT
        # Each turn keeps a part of the answer before it, and so fits into the same session.
        for num_tokens, num_kept in ((20, 6), (8, 2), (5, 0)):
            turn = request(text, num_tokens, sampling=REPETITIVE)
            generation = it.runtime.generate(turn, "test")
            answer = [t.id async for emission in generation for t in emission.tokens]
            frames, num_frames = it.cloud.frames[num_frames:], len(it.cloud.frames)
            num_bytes = sum(len(frame.payload) + STATES.size for frame in frames)
            assert generation.stats.bytes_up == num_bytes
            # A frame of an older epoch is dropped by a cloud without a word.
            assert not epochs or frames[0].epoch > epochs[-1]
            epochs += [frame.epoch for frame in frames]
            text = [*text, *answer[:num_kept], 9]
        assert epochs == sorted(epochs)
        assert len({frame.session for frame in it.cloud.frames}) == 1


async def test_a_prompt_that_shares_only_a_beginning_forks_it_and_leaves_the_origin():
    async with bench(kept=KEEP_SOME) as it:
        common = [1, 2, 3, 4, 5, 6]
        long = request([*common, *range(16), *range(16)], 6)
        short = request([*common, 9, 9], 6)
        assert await it.ids(long) == expected(long)
        generation = it.runtime.generate(short, "test")
        ids = [t.id async for emission in generation for t in emission.tokens]
        assert ids == expected(short)
        assert generation.stats.num_reused_tokens == len(common)
        assert it.cloud.opens[-1].fork_tokens == len(common)
        again = request([*long.prompt_ids, *expected(long)], 6)
        assert await it.ids(again) == expected(again)
        await it.freed(num_kept=2)


async def test_a_fork_that_is_refused_uploads_the_prompt_instead():
    async with bench(kept=KEEP_SOME) as it:
        first = request([1, 2, 3, 4, 5, 6, 7], 2)
        await it.ids(first)
        it.cloud.refuse_open = [fault(FaultCode.UNKNOWN_SESSION)]
        second = request([1, 2, 3, 4, 5, 6, 7, 8], 40)
        assert await it.ids(second) == expected(second)


@pytest.mark.parametrize("code", [FaultCode.CAPACITY, FaultCode.TOO_MANY_SESSIONS])
async def test_kept_sessions_make_room_when_the_cloud_is_full(code):
    async with bench(kept=KEEP_SOME) as it:
        await it.ids(request([1, 2, 3, 4, 5], 2))
        it.cloud.refuse_open = [fault(code, 9.0)]
        wanted = request([9, 9, 9, 9, 9], 2)
        assert await it.ids(wanted) == expected(wanted)
        await it.freed(num_kept=1)


async def test_no_more_kept_sessions_are_given_up_than_the_cloud_needs_room():
    async with bench(kept=KEEP_SOME) as it:
        texts = [request([first] * 5, 2) for first in (1, 2, 3)]
        for text in texts:
            await it.ids(text)
        it.cloud.refuse_open = [fault(FaultCode.CAPACITY, 9.0)]
        wanted = request([9, 9, 9, 9, 9], 2)
        assert await it.ids(wanted) == expected(wanted)
        assert it.num_kept == 2  # the newest of the three, and the new one
        again = request([*texts[-1].prompt_ids, *expected(texts[-1])], 2)
        generation = it.runtime.generate(again, "test")
        assert [t.id async for emission in generation for t in emission.tokens] == expected(again)
        assert generation.stats.num_reused_tokens > 0


async def test_kept_sessions_are_given_up_as_soon_as_the_cloud_says_that_it_stops():
    async with bench(kept=KEEP_SOME, reconnect_timeout_s=0) as it:
        await it.ids(request([1, 2, 3, 4, 5], 2))
        it.cloud.is_draining = True
        with pytest.raises(CloudUnavailableError):
            await it.ids(request([9, 9, 9, 9, 9], 2))
        assert it.num_kept == 0
        await it.freed(num_kept=0)


async def test_a_new_session_that_is_said_to_hold_something_is_a_broken_promise():
    class Forgetful(FakeCloud):
        def _open(self, message):
            return replace(super()._open(message), cached_tokens=3)

    async with bench(Forgetful()) as it:
        with pytest.raises(CloudUnavailableError, match="expected 0 cached tokens, got 3"):
            await it.ids(request([1, 2, 3, 4, 5], 2))
        await it.freed()


async def test_kept_sessions_of_a_lost_cloud_are_not_continued():
    async with bench(kept=KEEP_SOME) as it:
        wanted = request([1, 2, 3, 4, 5], 20)
        assert await it.ids(wanted) == expected(wanted)
        it.cloud.vanish()
        await until(lambda: it.runtime.ready() is not None)
        await until(lambda: it.runtime.ready() is None)
        again = replace(wanted, prompt_ids=[*wanted.prompt_ids, *expected(wanted)])
        assert await it.ids(again) == expected(again)
        await it.freed(num_kept=1)


async def test_kept_sessions_end_before_the_cloud_forgets_them():
    async with bench(FakeCloud(session_ttl_s=60.0), kept=KEEP_SOME) as it:
        await it.ids(request([1, 2, 3, 4, 5], 2))
        await asyncio.sleep(40.0)
        await it.freed(num_kept=1)
        await asyncio.sleep(14.0)
        assert not it.cloud.live, "a tenth of the cloud's patience before it is over"
        await it.freed(num_kept=0)


async def test_each_kept_session_ends_in_time_and_one_timer_is_enough_for_all():
    async with bench(FakeCloud(session_ttl_s=60.0), kept=KEEP_SOME) as it:
        loop = asyncio.get_running_loop()

        def num_timers():
            return sum(each._callback == it.runtime._places._on_time for each in loop._scheduled)

        for number in range(3):
            await it.ids(request([number] * 5, 2))
            await asyncio.sleep(10.0)
            assert num_timers() == 1
        for num_left in (2, 1, 0):
            await it.freed(num_kept=num_left + 1)
            await asyncio.sleep(20.0 if num_left == 2 else 10.0)
            await it.freed(num_kept=num_left)
        assert num_timers() == 0


async def test_closing_the_runtime_tells_the_cloud_that_its_sessions_are_over():
    async with bench(kept=KEEP_SOME) as it:
        await it.ids(request([1, 2, 3, 4, 5], 2))
        await it.runtime.close()
        assert not it.cloud.live

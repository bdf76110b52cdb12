"""Conversations that take turns in a cloud with room for one: both daemons under virtual time."""

import asyncio
from contextlib import suppress

import pytest

from device_runtime.generation.request import CloudUnavailableError
from tests.support.fake_runtime import KEEP_SOME, PROMPT, bench, expected, request
from tests.support.memory_cloud import MemoryCloud

pytestmark = pytest.mark.event_loop("virtual")

NUM_CONVERSATIONS, NUM_TURNS = 3, 3
LONG_S = 5.0
"""A pause after which a session counts as idle."""


async def take_turns(cloud: MemoryCloud) -> tuple[int, int]:
    """Conversations go on in turn, each answer as it must be.

    Returns:
        How many tokens of prompts were reused, and how many were sent.
    """
    num_reused = num_sent = 0
    async with bench(cloud, kept=KEEP_SOME, chunk_tokens=5) as it:
        texts = [[number, *PROMPT] for number in range(1, NUM_CONVERSATIONS + 1)]
        for _ in range(NUM_TURNS):
            for text in texts:
                turn = request(list(text), 8)
                generation = it.runtime.generate(turn, "test")
                answer = [t.id async for emission in generation for t in emission.tokens]
                assert answer == expected(turn)
                num_reused += generation.stats.num_reused_tokens
                num_sent += len(text) - generation.stats.num_reused_tokens
                text += [*answer, 3]
                await asyncio.sleep(LONG_S)
    return num_reused, num_sent


async def test_a_conversation_whose_room_others_needed_is_not_sent_again():
    num_reused, num_sent = await take_turns(MemoryCloud(capacity_tokens=96, host_tokens=1000))
    # The second and third turns send their new tokens and the last decided one.
    assert num_sent == NUM_CONVERSATIONS * (len(PROMPT) + 1 + (NUM_TURNS - 1) * 2)
    assert num_reused > num_sent


async def test_a_cloud_without_host_memory_has_it_sent_again():
    num_reused = 0
    with suppress(CloudUnavailableError):
        num_reused, num_sent = await take_turns(MemoryCloud(capacity_tokens=96))
        assert num_sent > NUM_CONVERSATIONS * (len(PROMPT) + 1 + (NUM_TURNS - 1) * 2)
    assert num_reused == 0


async def test_whoever_comes_back_while_others_run_waits_for_their_room_and_says_the_same():
    cloud = MemoryCloud(fixed_s=0.05, capacity_tokens=96, host_tokens=1000)
    async with bench(cloud, kept=KEEP_SOME, chunk_tokens=5) as it:
        first = request(PROMPT, 8)
        answer = await it.ids(first)
        await asyncio.sleep(LONG_S)
        others = [request([number, *PROMPT], 20) for number in (1, 2)]
        running = [asyncio.create_task(it.ids(other)) for other in others]
        await asyncio.sleep(0.3)
        # It goes on within the room that it had.
        turn = request([*PROMPT, *answer[:2], 3], 4)
        generation = it.runtime.generate(turn, "test")
        assert [t.id async for emission in generation for t in emission.tokens] == expected(turn)
        assert generation.stats.num_reused_tokens >= len(PROMPT)
        for task, other in zip(running, others, strict=True):
            assert await task == expected(other)

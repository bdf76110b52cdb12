"""What the runtime remembers of its requests for later drafts, and what it does not."""

import pytest

from device_runtime.generation.request import SamplingParams
from tests.support.fake_runtime import PROMPT, bench, expected, request, rest

pytestmark = pytest.mark.event_loop("virtual")

WANTED = request(PROMPT, 60)
NOT_KEPT = request(PROMPT, 60, is_remembered=False)


async def rounds_of(it, wanted):
    """How many rounds the whole answer took."""
    generation = it.runtime.generate(wanted, "test")
    assert await rest(generation) == expected(wanted)
    return generation.stats.num_rounds


async def test_an_answer_that_was_given_before_is_drafted_out_of_memory():
    async with bench(drafter="suffix") as it:
        first = await rounds_of(it, WANTED)
        assert await rounds_of(it, WANTED) < first / 4


@pytest.mark.parametrize(
    ("settings", "wanted"), [({"suffix_memory_tokens": 0}, WANTED), ({}, NOT_KEPT)]
)
async def test_nothing_is_remembered_where_that_is_not_wanted(settings, wanted):
    async with bench(drafter="suffix", **settings) as it:
        first = await rounds_of(it, wanted)
        assert await rounds_of(it, WANTED) == first


async def test_an_answer_that_was_broken_off_is_remembered_as_far_as_it_came():
    async with bench(drafter="suffix") as it:
        first = await rounds_of(it, NOT_KEPT)
        generation = it.runtime.generate(WANTED, "test")
        async for _ in generation:
            if generation.stats.num_output_tokens > 30:
                break
        await generation.aclose()
        again = await rounds_of(it, NOT_KEPT)
        assert 2 < again < first - 15


async def test_what_others_were_answered_changes_no_text():
    async with bench(drafter="suffix") as it:
        for seed in range(6):
            for bias in ({}, {3: 30.0, 5: 31.0}):
                sampling = SamplingParams(seed=seed, logit_bias=bias)
                wanted = request(PROMPT[: 5 + 3 * (seed % 3)], 40, sampling=sampling)
                assert await it.ids(wanted) == expected(wanted)


async def test_what_was_drafted_is_counted_by_drafter():
    async with bench(drafter="suffix") as it:
        await it.ids(WANTED)
        generation = it.runtime.generate(WANTED, "test")
        await rest(generation)
        stats = generation.stats
        counts = stats.drafted_by["suffix"]
        assert stats.drafted_by.keys() == {"suffix"}
        assert counts.accepted > 20
        assert (counts.drafted, counts.accepted) == (
            stats.num_drafted_tokens,
            stats.num_accepted_tokens,
        )

"""A grammar through the runtime: the unsplit model's choices under it, and forced runs in one trip.

The reference decodes token by token with the same sampler. That the masks themselves are right is
shown elsewhere, against the grammar library.
"""

from collections.abc import Sequence

import pytest

from device_runtime.generation.request import GenerationRequest, SamplingParams
from tests.support.event_loop import until
from tests.support.fake_cloud import FakeCloud
from tests.support.fake_grammar import END, FakeGrammar
from tests.support.fake_model import FakeDeviceEngine
from tests.support.fake_runtime import PROMPT, bench, expected, request

pytestmark = pytest.mark.event_loop("virtual")

GREEDY = SamplingParams(temperature=0.0, seed=1)
SAMPLED = SamplingParams(seed=5)
BIASED = SamplingParams(seed=3, logit_bias={9: -50.0, 7: 3.0}, presence_penalty=1.0)

FORMS = FakeGrammar(forced=(2, 4, 6, 8, 10), free=(3, 5, 7, 9), num_fields=6)
FREE = FakeGrammar(forced=(), free=(1, 2, 3, 5), num_fields=30)
ONE_WORD = FakeGrammar(forced=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), free=(3,), num_fields=1)


def held(grammar: FakeGrammar, max_tokens: int = 60, **fields: object) -> GenerationRequest:
    fields.setdefault("stop_token_ids", frozenset({END}))
    return request(PROMPT, max_tokens, grammar=grammar, **fields)


def fits(grammar: FakeGrammar, ids: Sequence[int]) -> bool:
    return all(token in grammar.next(place) for place, token in enumerate(ids))


@pytest.mark.parametrize("num_output_layers", [0, 2])
@pytest.mark.parametrize("pipelining", ["auto", "off"])
@pytest.mark.parametrize("drafter", ["none", "ngram", "suffix"])
async def test_the_output_is_the_whole_models_under_the_grammar(
    drafter: str, pipelining: str, num_output_layers: int
) -> None:
    engine = FakeDeviceEngine(num_output_layers)
    async with bench(engine=engine, drafter=drafter, pipelining=pipelining) as it:
        for grammar in (FORMS, FREE, ONE_WORD):
            for sampling in (GREEDY, SAMPLED, BIASED):
                for max_tokens in (1, 4, 13, 60):
                    for more in ({}, {"num_logprobs": 2}, {"min_tokens": max_tokens}):
                        wanted = held(grammar, max_tokens, sampling=sampling, **more)
                        ids = await it.ids(wanted)
                        assert ids == expected(wanted, num_output_layers)
                        assert fits(grammar, ids)
        await it.freed()


@pytest.mark.parametrize("drafter", ["none", "ngram"])
async def test_what_is_forced_takes_one_trip(drafter: str) -> None:
    async with bench(drafter=drafter) as it:
        generation = it.runtime.generate(held(ONE_WORD), "test")
        ids = [token.id async for emission in generation for token in emission.tokens]
        assert ids == [*ONE_WORD.forced, 3, END]
        # The first token comes from the prompt; the others were never the model's to choose.
        assert generation.stats.num_rounds == 1
        counts = generation.stats.drafted_by["grammar"]
        assert counts.drafted == counts.accepted == len(ids) - 1


async def test_a_field_takes_a_round_however_long_its_skeleton_is() -> None:
    async with bench(drafter="none") as it:
        generation = it.runtime.generate(held(FORMS, sampling=SAMPLED), "test")
        ids = [token.id async for emission in generation for token in emission.tokens]
        assert len(ids) == 6 * FORMS.num_fields + 1
        assert generation.stats.num_rounds <= FORMS.num_fields + 1


@pytest.mark.parametrize("grammar", [FORMS, FREE])
async def test_a_lost_cloud_in_the_middle_changes_nothing(grammar: FakeGrammar) -> None:
    cloud = FakeCloud()
    async with bench(cloud, reconnect_timeout_s=60.0) as it:
        for place in range(1, 20, 3):
            wanted = held(grammar, sampling=SAMPLED)
            generation = it.runtime.generate(wanted, "test")
            ids: list[int] = []
            async for emission in generation:
                ids += [token.id for token in emission.tokens]
                if len(ids) >= place and generation.stats.num_recoveries == 0:
                    await it.cloud.stop()
                    await it.cloud.start()
                    await until(lambda: True)
            assert ids == expected(wanted)

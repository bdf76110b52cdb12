from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from device_runtime.drafting.adapter import AdapterDrafter
from device_runtime.drafting.ahead import AheadSwitch
from device_runtime.engines.engine import SequenceId
from device_runtime.engines.submodel_engine import SubmodelEngine
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.sampling.noise import PositionNoise
from device_runtime.sampling.sampler import Sampler
from tests.support.device_engines import DRAFTING_ENGINES
from tests.support.drafts import AtOnce, proposed, round_of, work_it_off
from tests.support.reference import STORIES, story_prompts
from tests.support.stored_adapters import ADAPTER, split_with_adapter

GREEDY = SamplingParams(temperature=0.0)
SAMPLED = SamplingParams(seed=3)
NO_STOP: frozenset[int] = frozenset()
DEEP = np.zeros(64, np.float32)
"""A row that an adapter does not look at."""


@pytest.fixture(scope="module", params=sorted(DRAFTING_ENGINES))
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> SubmodelEngine:
    bundles = split_with_adapter(STORIES, tmp_path_factory.mktemp("stories") / "split", ADAPTER)
    return DRAFTING_ENGINES[request.param](bundles)


@dataclass(frozen=True, slots=True)
class Round:
    """A drafter in the middle of a round, and the tokens it looked ahead from."""

    drafter: AdapterDrafter
    sequence: SequenceId
    text: list[int]
    draft: tuple[int, ...]
    candidates: list[int]


def sampler_after(text: Sequence[int], sampling: SamplingParams) -> Sampler:
    request = GenerationRequest(text, 40, sampling)
    return Sampler(request, 512, PositionNoise(3))


def adapter_drafter(text: Sequence[int], sampling: SamplingParams) -> AdapterDrafter:
    """One that drafts ahead in its first rounds."""
    return AdapterDrafter(sampler_after(text, sampling), NO_STOP, AheadSwitch(), lambda: 0.0)


def begin(engine: SubmodelEngine, sampling: SamplingParams, num_tokens: int = 3) -> Round:
    """Draft behind a story's beginning, send the draft, and draft ahead until nothing is left."""
    text = story_prompts(1)[0]
    drafter = adapter_drafter(text, sampling)
    sequence = engine.open()
    engine.input_rows(sequence, text[:-1], 0)
    draft = proposed(drafter, text, num_tokens, AtOnce(engine), sequence)
    engine.input_rows(sequence, (text[-1], *draft), len(text) - 1)
    work_it_off(drafter, round_of(text, draft), AtOnce(engine), sequence)
    assert drafter._ahead is not None
    return Round(drafter, sequence, text, draft, [b.first for b in drafter._ahead.branches])


def plain_draft(
    engine: SubmodelEngine, text: Sequence[int], sampling: SamplingParams, num_tokens: int
) -> tuple[int, ...]:
    """What a drafter says that did not draft ahead."""
    sequence = engine.open()
    engine.input_rows(sequence, text[:-1], 0)
    drafter = adapter_drafter(text, sampling)
    return proposed(drafter, text, num_tokens, AtOnce(engine), sequence)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("branch", [0, 1])
def test_a_branch_that_matches_begins_the_draft_that_would_have_been_made(
    engine: SubmodelEngine, sampling: SamplingParams, branch: int
) -> None:
    now = begin(engine, sampling)
    decided = (*now.draft, now.candidates[branch])
    now.drafter.decided(decided, DEEP)
    kept = tuple(each.token_id for each in now.drafter._begun)
    text = [*now.text, *decided]
    # Sampled drafts depend on the place alone, so a drafter of the longer prompt agrees.
    expected = plain_draft(engine, text, sampling, 5)
    assert proposed(now.drafter, text, 5, AtOnce(engine), now.sequence) == expected
    assert now.drafter.num_ahead_tokens >= len(kept)
    assert (len(kept) > 0) == (len(expected) > 0)


@pytest.mark.parametrize("num_accepted", [0, 1, 2])
def test_after_a_rejection_nothing_of_it_is_left(engine: SubmodelEngine, num_accepted: int) -> None:
    now = begin(engine, GREEDY)
    assert len(now.draft) == 3
    decided = (*now.draft[:num_accepted], (now.draft[num_accepted] + 1) % 512)
    now.drafter.decided(decided, DEEP)
    assert now.drafter._begun == ()
    text = [*now.text, *decided]
    assert proposed(now.drafter, text, 5, AtOnce(engine), now.sequence) == plain_draft(
        engine, text, GREEDY, 5
    )


def test_an_empty_draft_is_gone_on_from_too(engine: SubmodelEngine) -> None:
    now = begin(engine, GREEDY, num_tokens=0)
    decided = (now.candidates[0],)
    now.drafter.decided(decided, DEEP)
    text = [*now.text, *decided]
    expected = plain_draft(engine, text, GREEDY, 4)
    assert proposed(now.drafter, text, 4, AtOnce(engine), now.sequence) == expected


def test_what_was_verified_stays_in_the_caches(engine: SubmodelEngine) -> None:
    now = begin(engine, GREEDY)
    position = len(now.text) + len(now.draft)
    fork = engine.fork(now.sequence, position)
    fresh = engine.open()
    engine.input_rows(fresh, [*now.text, *now.draft], 0)
    came, expected = (engine.input_rows(s, [7], position) for s in (fork, fresh))
    assert abs(came - expected).max() < 1e-4


def test_a_draft_that_is_sent_again_shorter_is_gone_on_from_where_it_ends_now(
    engine: SubmodelEngine,
) -> None:
    """As after a cloud was lost and another takes shorter frames only."""
    now = begin(engine, GREEDY)
    shorter = now.draft[:1]
    engine.input_rows(now.sequence, (now.text[-1], *shorter), len(now.text) - 1)
    work_it_off(now.drafter, round_of(now.text, shorter, epoch=3), AtOnce(engine), now.sequence)
    ahead = now.drafter._ahead
    assert ahead is not None
    assert ahead.draft == shorter
    decided = (*shorter, ahead.branches[0].first)
    now.drafter.decided(decided, DEEP)
    text = [*now.text, *decided]
    expected = plain_draft(engine, text, GREEDY, 4)
    assert proposed(now.drafter, text, 4, AtOnce(engine), now.sequence) == expected

"""A replay counts what a device counts: the same texts, rounds, drafts and accepted tokens."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from adapters.data.whole_model import WholeModel, load_whole_model
from adapters.install import install_adapter
from bench.drafters.drafts.default import DefaultReplay, MadeUpTimes
from bench.drafters.drafts.lookup import LOOKUPS, lookup_drafts
from bench.drafters.drafts.steps import known_steps
from bench.drafters.drafts.stored import StoredDrafter
from bench.drafters.rounds import Draft, Known, Round, walk
from bench.drafters.texts.cases import STORIES as STORY_GROUP
from bench.drafters.texts.cases import Case, load_cases
from bench.drafters.texts.choosing import GREEDY, RULES, choice_of
from bench.drafters.texts.kept import Text, Writing, own_texts, stop_token_ids
from bench.drafters.texts.scoring import Manner, Scores
from device_runtime.drafting.policy.costs import RoundCosts
from device_runtime.drafting.policy.policy import DraftPolicy, Outcome
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.generation.stats import GenerationStats
from submodels.bundle.layer_weights import Placed
from tests.support.eager_drafts import eager_drafts
from tests.support.reference import STORIES
from tests.support.stack import generate_with_stats, running_stack, split_for_serving
from tests.support.stored_adapters import ADAPTER, install_block_adapter, install_fed_adapter

NUM_PROMPTS = 4
TIMES = MadeUpTimes()
WRITING = Writing(RULES, max_tokens=40, seed=3)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = split_for_serving(STORIES, tmp_path_factory.mktemp("stories") / "split", 1)
    install_adapter(out, ADAPTER)
    return out


@pytest.fixture(scope="module")
def model(bundles: Path) -> WholeModel:
    return load_whole_model(bundles, bundles, Placed())


@pytest.fixture(scope="module")
def cases(bundles: Path) -> list[Case]:
    return load_cases(bundles, (STORY_GROUP,), NUM_PROMPTS, WRITING.seed, 100)


@pytest.fixture(scope="module")
def texts(
    model: WholeModel, cases: list[Case], tmp_path_factory: pytest.TempPathFactory
) -> list[Text]:
    return own_texts(model, cases, WRITING, tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def made_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """With adapters beside them that draft most tokens only: one is fed, one makes blocks."""
    found = {}
    for kind, install in (("fed", install_fed_adapter), ("block", install_block_adapter)):
        folder = tmp_path_factory.mktemp(kind)
        found[kind] = split_for_serving(STORIES, folder / "split", 1)
        install(found[kind], folder / "adapter", np.arange(100, 512))
    return found


def sampling_of(text: Text, penalty: float) -> SamplingParams:
    """What a request says whose answer is this text."""
    temperature = 0.0 if text.rule == GREEDY else 1.0
    return SamplingParams(temperature=temperature, seed=text.seed, repetition_penalty=penalty)


async def counted(
    bundles: Path,
    texts: Sequence[Text],
    settings: dict[str, object],
    stop: frozenset[int],
    penalty: float = 1.0,
) -> list[GenerationStats]:
    """What a device with these settings counts; its texts are those of the replay."""
    found = []
    async with running_stack(bundles, {"engine": "torch", **settings}) as stack:
        for text in texts:
            sampling = sampling_of(text, penalty)
            prompt = list(text.case.token_ids)
            request = GenerationRequest(prompt, WRITING.max_tokens, sampling, stop)
            ids, stats = await generate_with_stats(stack.runtime, request)
            assert tuple(ids) == text.answer
            found.append(stats)
    return found


def check(rounds: Sequence[Round], stats: GenerationStats) -> None:
    again = GenerationStats()
    for one in rounds:
        again.add_round(one.num_drafted, one.num_accepted)
    assert again.num_rounds == stats.num_rounds
    assert again.drafted_by_position == stats.drafted_by_position
    assert again.accepted_by_position == stats.accepted_by_position
    assert sum(one.num_tokens for one in rounds) == stats.num_output_tokens - 1


@pytest.mark.parametrize("drafter", ["ngram", "suffix", "adapter", "fed", "block"])
async def test_a_replay_counts_what_the_device_counts(
    drafter: str,
    bundles: Path,
    made_bundles: dict[str, Path],
    model: WholeModel,
    texts: list[Text],
) -> None:
    """With drafts of a fixed length."""
    most, stop = 6, stop_token_ids(model)
    folder = ADAPTER
    if drafter in made_bundles:
        bundles = made_bundles[drafter]
        folder = bundles.parent / "adapter"

    def replayed(text: Text) -> list[Draft]:
        if drafter in LOOKUPS:
            return lookup_drafts(text, LOOKUPS[drafter], most)
        adapter = StoredDrafter(model, folder)
        drafts = adapter.drafts(text, choice_of(text.rule, text.seed), most)
        return drafts.until_unsure(0.0)

    settings = {
        "drafter": "adapter" if drafter in made_bundles else drafter,
        "draft_tokens": most,
        "draft_ahead": "off",
        "suffix_memory_tokens": 0,
    }
    with eager_drafts():
        stats = await counted(bundles, texts, settings, stop)
    accepted = 0
    for text, one in zip(texts, stats, strict=True):
        rounds = walk(Known(text.answer, text.max_tokens, stop), replayed(text), most)
        check(rounds, one)
        accepted += one.num_accepted_tokens
    assert accepted > 0


class MadeUpCosts(RoundCosts):
    """What rounds cost in a replay, whatever a clock says."""

    def on_round(self, num_rows: int, verify_s: float) -> None:
        super().on_round(num_rows, TIMES.round_s + num_rows * TIMES.row_s)

    def on_steps(self, num_steps: int, draft_s: float) -> None:
        super().on_steps(num_steps, num_steps * TIMES.step_s)


class MadeUpTimePolicy(DraftPolicy):
    """Decides in the made-up time of a replay."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        if not isinstance(self._lessons.costs, MadeUpCosts):
            self._lessons.costs = MadeUpCosts()

    def on_round(self, outcome: Outcome) -> None:
        super().on_round(replace(outcome, draft_s=outcome.num_steps * TIMES.step_s))


@pytest.mark.parametrize("drafter", ["suffix", "adapter", "fed", "block"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
async def test_the_policy_decides_in_a_replay_what_it_decides_on_a_device(
    drafter: str,
    penalty: float,
    bundles: Path,
    made_bundles: dict[str, Path],
    model: WholeModel,
    cases: list[Case],
    tmp_path: Path,
) -> None:
    """Guesses alone, and steps alone: behind a wrong guess a replay does not know the steps."""
    folder, stop = ADAPTER, stop_token_ids(model)
    if drafter in made_bundles:
        bundles = made_bundles[drafter]
        folder = bundles.parent / "adapter"
    writing = replace(WRITING, repetition_penalty=penalty)
    texts = own_texts(model, cases[:2], writing, tmp_path)
    texts.sort(key=lambda text: text.rule)
    settings = {
        "drafter": "suffix" if drafter == "suffix" else "adapter",
        "draft_ahead": "off",
        "pipelining": "off",
        "suffix_memory_tokens": 0,
    }
    with mock.patch("device_runtime.drafting.choice.DraftPolicy", MadeUpTimePolicy):
        stats = await counted(bundles, texts, settings, stop, penalty)
    network = StoredDrafter(model, folder)
    most = 0 if drafter == "suffix" else network.card.max_draft_tokens
    pass_tokens = most if drafter == "block" else 1
    device = DefaultReplay(TIMES, most, pass_tokens, has_guesses=drafter == "suffix")
    num_steps = 0
    for text, one in zip(texts, stats, strict=True):
        steps = None
        if most:
            scores = Scores(Manner(text.rule, text.seed, penalty))
            _, steps = known_steps(text, scores, most, network.drafts)
        sampling = sampling_of(text, penalty)
        known = Known(text.answer, text.max_tokens, stop)
        check(device.walk(text, known, sampling, steps).rounds, one)
        num_steps += one.num_drafted_tokens
    assert num_steps > 0


def test_answers_are_written_once(model: WholeModel, cases: list[Case], tmp_path: Path) -> None:
    writing = Writing((GREEDY,), max_tokens=5)
    first = own_texts(model, cases[:2], writing, tmp_path)
    lines: list[str] = []
    again = own_texts(model, cases[:3], writing, tmp_path, lines.append)
    assert lines == ["1 of 1 answers written"]
    assert [text.answer for text in again[:2]] == [text.answer for text in first]
    for one, other in zip(first, again[:2], strict=True):
        np.testing.assert_array_equal(one.deep, other.deep)
    assert len(list(tmp_path.iterdir())) == 3

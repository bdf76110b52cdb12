"""An imported head is measured as it drafts: what a device counts is what `hat adapter eval` and
`bench.drafters` find."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters.data.chains import read_text
from adapters.data.rounds import Trial, exact_acceptance, walk_rounds
from adapters.data.whole_model import WholeModel, load_whole_model
from adapters.importing.conversion import ImportLimits, import_head
from adapters.install import install_adapter
from adapters.measuring.drafters import load_drafter
from adapters.measuring.evaluate import evaluate
from adapters.measuring.report import render_report
from adapters.options import EvaluateOptions, TrialOptions
from adapters.storage import load_adapter
from adapters.writing.answers import Ending, answers
from bench.drafters.drafts.stored import StoredDrafter
from bench.drafters.rounds import Known, walk
from bench.drafters.texts.cases import Case
from bench.drafters.texts.choosing import GREEDY, RULES, choice_of
from bench.drafters.texts.kept import Text, stop_token_ids
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.generation.stats import GenerationStats
from submodels.bundle.layer_weights import Placed
from submodels.random_models import make_random_model
from submodels.split import SplitOptions, split_checkpoint
from tests.integration.test_published_heads import MODEL, PROMPTS
from tests.support.adapter_models import write_stories
from tests.support.eager_drafts import eager_drafts
from tests.support.published_heads import repeating_head
from tests.support.stack import generate_with_stats, running_stack

NUM_DRAFTED = 4
MAX_TOKENS = 40
CASES = [Case(number, "chat", tuple(prompt)) for number, prompt in enumerate(PROMPTS)]
HEADS = [("eagle", 1, 0), ("eagle", 1, 1), ("eagle3", 1, 0), ("eagle3", 1, 1), ("eagle3", 2, 0)]
STOP_THRESHOLD = 0.2


@pytest.fixture(scope="module", params=HEADS, ids=str)
def bundles(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, num_input, num_output = request.param
    folder = tmp_path_factory.mktemp(kind)
    make_random_model(MODEL, folder / "source")
    options = SplitOptions(str(folder / "source"), folder / "out", num_input, num_output)
    out = split_checkpoint(options).out
    published = str(repeating_head(out / "device", kind).write(folder / "published"))
    limits = ImportLimits(STOP_THRESHOLD, NUM_DRAFTED)
    import_head(published, out / "device", out / "adapter", limits)
    install_adapter(out / "device", out / "adapter")
    return out


@pytest.fixture(scope="module")
def model(bundles: Path) -> WholeModel:
    return load_whole_model(bundles, bundles, Placed())


@pytest.fixture(scope="module")
def texts(model: WholeModel) -> list[Text]:
    """What the model writes, greedy and sampled; no row of it is kept, since heads read others."""
    found = []
    for case, rule in product(CASES, RULES):
        ending = Ending(MAX_TOKENS, stop_token_ids(model))
        [answer] = answers(model, [case.token_ids], [choice_of(rule, case.number)], ending)
        found.append(Text(case, rule, case.number, MAX_TOKENS, answer, _no_rows(answer)))
    return found


def _no_rows(answer: tuple[int, ...]) -> NDArray[np.float32]:
    return np.zeros((len(answer), 1), np.float32)


@pytest.fixture(scope="module")
def drafter(model: WholeModel, bundles: Path) -> StoredDrafter:
    return StoredDrafter(model, bundles / "adapter")


async def counted(bundles: Path, texts: list[Text], stop: frozenset[int]) -> list[GenerationStats]:
    """What a device counts that drafts as often and as far as it may."""
    settings = {"engine": "torch", "drafter": "adapter", "draft_tokens": NUM_DRAFTED}
    settings |= {"draft_ahead": "off", "pipelining": "off"}
    found = []
    with eager_drafts():
        async with running_stack(bundles, settings) as stack:
            for text in texts:
                temperature = 0.0 if text.rule == GREEDY else 1.0
                sampling = SamplingParams(temperature=temperature, seed=text.seed)
                prompt = list(text.case.token_ids)
                request = GenerationRequest(prompt, MAX_TOKENS, sampling, stop)
                ids, stats = await generate_with_stats(stack.runtime, request)
                assert tuple(ids) == text.answer
                found.append(stats)
    return found


async def test_a_replay_counts_what_the_device_counts(
    bundles: Path, model: WholeModel, texts: list[Text], drafter: StoredDrafter
) -> None:
    stop = stop_token_ids(model)
    accepted = drafted = 0
    for text, stats in zip(texts, await counted(bundles, texts, stop), strict=True):
        choose = choice_of(text.rule, text.seed)
        drafts = drafter.drafts(text, choose, NUM_DRAFTED).until_unsure(0.0)
        again = GenerationStats()
        for one in walk(Known(text.answer, text.max_tokens, stop), drafts, NUM_DRAFTED):
            again.add_round(one.num_drafted, one.num_accepted)
        assert again.num_rounds == stats.num_rounds
        assert again.drafted_by_position == stats.drafted_by_position
        assert again.accepted_by_position == stats.accepted_by_position
        accepted += stats.num_accepted_tokens
        drafted += stats.num_drafted_tokens
    assert 0 < accepted < drafted


def test_an_evaluation_walks_the_same_rounds(
    bundles: Path, model: WholeModel, texts: list[Text], drafter: StoredDrafter
) -> None:
    """Of each text all but its end, where a round may be cut."""
    evaluated = load_drafter(model, load_adapter(bundles / "device", model.manifest))
    for text in texts:
        choice, num_prompt_tokens = choice_of(text.rule, text.seed), len(text.case.token_ids)
        token_ids = [*text.case.token_ids, *text.answer]
        whole = read_text(model, token_ids, num_prompt_tokens)
        drafts = evaluated.drafts(whole, NUM_DRAFTED, choice)
        trial = Trial(exact_acceptance(drafts.token_ids, text.answer[1:]), drafts.confidences)
        found = walk_rounds([trial], STOP_THRESHOLD)
        ways = drafter.drafts(text, choice, NUM_DRAFTED).until_unsure(STOP_THRESHOLD)
        begun, rounds = 0, []
        for one in walk(Known(text.answer, text.max_tokens, frozenset()), ways, NUM_DRAFTED):
            if begun < len(ways) - NUM_DRAFTED:
                rounds.append(one)
            begun += one.num_tokens
        assert found.num_rounds == len(rounds)
        num_tokens = sum(one.num_tokens for one in rounds)
        num_drafted = sum(one.num_drafted for one in rounds)
        assert found.tokens_per_round == pytest.approx(num_tokens / len(rounds))
        assert found.drafted_per_round == pytest.approx(num_drafted / len(rounds))


def test_a_bundles_head_is_evaluated_by_every_rule(
    bundles: Path, drafter: StoredDrafter, tmp_path: Path
) -> None:
    trials = TrialOptions(3, prompt_tokens=(6, 12), continuation_tokens=12, max_draft_tokens=3)
    text = write_stories(tmp_path / "text.txt", 6)
    options = EvaluateOptions(bundles, bundles, (text,), trials=trials)
    report = evaluate(options, lambda progress: None)
    assert (report.kind, report.num_parameters) == (drafter.card.kind, drafter.num_parameters)
    assert report.stop_threshold == STOP_THRESHOLD
    assert len(report.rules) == 3
    for rule in report.rules:
        assert rule.full.drafted_per_round == pytest.approx(3)
        assert 1 <= rule.stopped.tokens_per_round <= rule.full.tokens_per_round
    assert f"{report.kind} adapter ({report.num_parameters:,} parameters)" in render_report(report)

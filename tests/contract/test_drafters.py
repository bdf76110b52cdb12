"""What every way to draft has in common, on the story model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.medusa_heads import MedusaHeads, install_heads, load_heads
from device_runtime.drafting.adapter import AdapterDrafter
from device_runtime.drafting.ahead import AheadSwitch
from device_runtime.drafting.combined import CombinedDrafter, Stepper
from device_runtime.drafting.medusa import MedusaDrafter
from device_runtime.drafting.ngram import NgramGuesses
from device_runtime.drafting.policy.lessons import Lessons
from device_runtime.drafting.policy.rule import DraftRule
from device_runtime.drafting.protocol import Drafter, NoDrafter
from device_runtime.drafting.suffix.guesses import SuffixGuesses
from device_runtime.drafting.suffix.guessing import SUFFIX_CHANCES
from device_runtime.engines.engine import Rows
from device_runtime.engines.onnx_engine import load_onnx_engine
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.sampling.noise import PositionNoise
from device_runtime.sampling.sampler import Sampler
from device_runtime.session.acceptance import walk
from submodels.bundle.bundle import load_bundle
from tests.support.drafts import AtOnce, GuessesAlone, proposed, round_of, work_it_off
from tests.support.eager_drafts import EagerPolicy
from tests.support.reference import STORIES, greedy, load_reference, story_prompts
from tests.support.stored_adapters import ADAPTER, split_with_adapter

NO_STOP: frozenset[int] = frozenset()
SAMPLINGS = {"greedy": SamplingParams(temperature=0.0), "sampled": SamplingParams(seed=3)}
VOCAB_SIZE = 512


class AlwaysAhead(AheadSwitch):
    """Drafts ahead in every round."""

    def is_on(self) -> bool:
        return True


class AheadNowAndThen(AheadSwitch):
    """Drafts ahead in every other round, beginning with the first."""

    _is_ahead = False

    def is_on(self) -> bool:
        self._is_ahead = not self._is_ahead
        return self._is_ahead


class ByTurns(EagerPolicy):
    """Two guesses, then two steps, as often as there are both."""

    def rule(self, max_tokens: int, is_behind: bool = False) -> DraftRule:
        self._is_odd = False
        return super().rule(max_tokens, is_behind)


def eager(
    stepper: Stepper, pass_tokens: int = 1, guesser: SuffixGuesses | None = None
) -> CombinedDrafter:
    """Drafts with as many tokens as are asked for, if there are so many."""
    policy = ByTurns(Lessons(SUFFIX_CHANCES), 20, pass_tokens=pass_tokens)
    return CombinedDrafter(policy, 20, lambda: 0.0, guesser, stepper)


DRAFTERS: Mapping[str, Callable[[Sampler, MedusaHeads], Drafter]] = {
    "none": lambda sampler, heads: NoDrafter(),
    "ngram": lambda sampler, heads: GuessesAlone(NgramGuesses(20)),
    "suffix": lambda sampler, heads: GuessesAlone(SuffixGuesses(None)),
    "adapter": lambda sampler, heads: AdapterDrafter(
        sampler, NO_STOP, AheadSwitch(is_allowed=False), lambda: 0.0
    ),
    "adapter with draft-ahead": lambda sampler, heads: AdapterDrafter(
        sampler, NO_STOP, AlwaysAhead(), lambda: 0.0
    ),
    "adapter with draft-ahead now and then": lambda sampler, heads: AdapterDrafter(
        sampler, NO_STOP, AheadNowAndThen(), lambda: 0.0
    ),
    "heads": lambda sampler, heads: eager(MedusaDrafter(heads, sampler), heads.num_heads),
    "adapter and guesses by turns": lambda sampler, heads: eager(
        AdapterDrafter(sampler, NO_STOP, AheadSwitch(is_allowed=False), lambda: 0.0),
        guesser=SuffixGuesses(None),
    ),
}


class Target:
    """The unsplit model: deep rows and logits of a whole text."""

    def __init__(self) -> None:
        self.model = load_reference(STORIES)
        self._deep = torch.empty(0)
        self.model.model.norm.register_forward_pre_hook(self._remember)

    def _remember(self, _: object, args: Sequence[torch.Tensor]) -> None:
        self._deep = args[0][0]

    @torch.inference_mode()
    def __call__(self, token_ids: Sequence[int]) -> tuple[Rows, Rows]:
        logits = self.model(torch.tensor([list(token_ids)])).logits[0].numpy()
        return self._deep.numpy().copy(), logits


@dataclass(frozen=True, slots=True)
class Bench:
    """A device's engine with its adapter and heads, and the model that verifies."""

    workers: AtOnce
    heads: MedusaHeads
    target: Target


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bundles: Path = split_with_adapter(STORIES, tmp_path_factory.mktemp("d") / "split", ADAPTER)
    heads = STORIES.parent / "stories260k-medusa"
    install_heads(bundles / "device", heads)
    engine = load_onnx_engine(bundles / "device", "float32", 1, None, "float32")
    manifest = load_bundle(bundles / "device", "device").manifest
    return Bench(AtOnce(engine), load_heads(heads, manifest), Target())


class Generation:
    """One text as a drafter sees it grow; `begun` is what the model has said already."""

    def __init__(
        self,
        bench: Bench,
        name: str,
        prompt: Sequence[int],
        sampling: SamplingParams,
        begun: int | None = None,
    ) -> None:
        self._bench = bench
        request = GenerationRequest(tuple(prompt), 80, sampling)
        self._sampler = Sampler(request, VOCAB_SIZE, PositionNoise(3))
        self.drafter = DRAFTERS[name](self._sampler, bench.heads)
        self._sequence = bench.workers.engine.open()
        bench.workers.engine.input_rows(self._sequence, prompt, 0)
        self.text = list(prompt)
        self.drafter.begin(prompt)
        self._draft: tuple[int, ...] = ()
        deep, logits = bench.target(prompt)
        self._decide(deep[-1:], logits[-1:], None if begun is None else (begun,))

    def propose(self, num_tokens: int) -> tuple[int, ...]:
        """Draft, send the draft, and work until nothing is left to do."""
        workers = self._bench.workers
        self._draft = proposed(self.drafter, self.text, num_tokens, workers, self._sequence)
        sent = round_of(self.text, self._draft)
        workers.engine.input_rows(self._sequence, sent.token_ids, sent.position)
        work_it_off(self.drafter, sent, workers, self._sequence)
        return self._draft

    def propose_behind(self, num_tokens: int) -> tuple[int, ...]:
        """Draft behind the draft under way, and send that as well."""
        workers, text, num_undecided = self._bench.workers, self.text, len(self._draft)
        behind = proposed(
            self.drafter,
            [*text, *self._draft],
            num_tokens,
            workers,
            self._sequence,
            num_undecided,
        )
        if behind:
            workers.engine.input_rows(self._sequence, behind, len(text) + num_undecided)
        return behind

    def verify(self, num_accepted: int | None = None) -> None:
        """Decide the round: as the model does, or so that so many drafted tokens stay."""
        deep, logits = self._bench.target([*self.text, *self._draft])
        first = len(self.text) - 1
        forced = None
        if num_accepted is not None:
            kept = self._draft[:num_accepted]
            wrong = self._draft[len(kept)] + 1 if len(kept) < len(self._draft) else 7
            forced = (*kept, wrong % VOCAB_SIZE)
        self._decide(deep[first:], logits[first:], forced)

    def _decide(self, deep: Rows, logits: Rows, forced: Sequence[int] | None) -> None:
        def choose(index: int) -> int:
            token = self._sampler.choose(logits[index]) if forced is None else forced[index]
            self._sampler.commit(token, logits[index])
            return token

        token_ids = walk(self._draft, choose, NO_STOP)
        self.drafter.decided(token_ids, deep[len(token_ids) - 1])
        self.text.extend(token_ids)


every_drafter = pytest.mark.parametrize("name", DRAFTERS)
every_sampling = pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)


@every_drafter
@every_sampling
def test_a_proposal_is_never_longer_than_was_asked_for(
    bench: Bench, name: str, sampling: SamplingParams
) -> None:
    it = Generation(bench, name, story_prompts(1)[0], sampling)
    for num_tokens in (5, 0, 1, 20, 2, 3):
        draft = it.propose(num_tokens)
        assert len(draft) <= num_tokens
        assert all(0 <= token < VOCAB_SIZE for token in draft)
        it.verify()


@every_drafter
@every_sampling
def test_the_same_text_gets_the_same_proposals(
    bench: Bench, name: str, sampling: SamplingParams
) -> None:
    one, other = (Generation(bench, name, story_prompts(1)[0], sampling) for _ in range(2))
    for num_tokens in (4, 4, 1, 6):
        assert one.propose(num_tokens) == other.propose(num_tokens)
        one.verify()
        other.verify()


@every_drafter
@every_sampling
@pytest.mark.parametrize("accepted", [(0,), (1,), (2,), (4,), (0, 0), (4, 0, 1), (1, 3, 0, 4)])
def test_whatever_was_accepted_the_next_proposal_is_that_of_a_drafter_of_the_longer_prompt(
    bench: Bench, name: str, sampling: SamplingParams, accepted: Sequence[int]
) -> None:
    it = Generation(bench, name, story_prompts(2)[1], sampling)
    for num_accepted in accepted:
        it.propose(4)
        it.verify(num_accepted)
    fresh = Generation(bench, name, it.text[:-1], sampling, begun=it.text[-1])
    assert it.propose(4) == fresh.propose(4)


@every_drafter
@every_sampling
@pytest.mark.parametrize("num_accepted", [0, 2, 4])
def test_what_was_proposed_behind_an_undecided_draft_leaves_no_trace(
    bench: Bench, name: str, sampling: SamplingParams, num_accepted: int
) -> None:
    it = Generation(bench, name, story_prompts(2)[1], sampling)
    for _ in range(2):
        it.propose(4)
        assert len(it.propose_behind(3)) <= 3
        it.verify(num_accepted)
    fresh = Generation(bench, name, it.text[:-1], sampling, begun=it.text[-1])
    assert it.propose(4) == fresh.propose(4)


@every_sampling
def test_behind_an_undecided_draft_the_adapter_proposes_what_it_would_behind_the_same_text(
    bench: Bench, sampling: SamplingParams
) -> None:
    it = Generation(bench, "adapter", story_prompts(1)[0], sampling)
    draft = it.propose(3)
    longer = [*it.text, *draft]
    fresh = Generation(bench, "adapter", longer[:-1], sampling, begun=longer[-1])
    expected = fresh.propose(4)
    assert len(draft) == 3
    assert expected
    assert it.propose_behind(4) == expected


@every_drafter
@every_sampling
def test_in_every_round_of_a_text_the_proposal_is_that_of_a_drafter_of_the_longer_prompt(
    bench: Bench, name: str, sampling: SamplingParams
) -> None:
    it = Generation(bench, name, story_prompts(3)[2], sampling)
    for _ in range(12):
        fresh = Generation(bench, name, it.text[:-1], sampling, begun=it.text[-1])
        assert it.propose(2) == fresh.propose(2)
        it.verify()


@every_drafter
def test_greedy_text_is_that_of_no_drafter(bench: Bench, name: str) -> None:
    num_tokens = 48
    for prompt in story_prompts(3):
        expected = greedy(bench.target.model, prompt, num_tokens, ignore_eos=True).ids
        it = Generation(bench, name, prompt, SAMPLINGS["greedy"])
        while len(it.text) < len(prompt) + num_tokens:
            it.propose(4)
            it.verify()
        assert tuple(it.text[len(prompt) :][:num_tokens]) == expected


@pytest.mark.parametrize(
    "name", ["ngram", "suffix", "adapter", "adapter with draft-ahead", "heads"]
)
def test_every_drafter_finds_something_to_say(bench: Bench, name: str) -> None:
    story = story_prompts(1)[0]
    it = Generation(bench, name, [*story, *story[:-1]], SAMPLINGS["greedy"], begun=story[-1])
    num_drafted = 0
    for _ in range(8):
        num_drafted += len(it.propose(4))
        it.verify()
    assert num_drafted > 0
    assert (it.drafter.num_ahead_tokens > 0) == (name == "adapter with draft-ahead")


def test_a_row_that_drafting_ahead_made_is_forgotten_where_the_round_decided_otherwise(
    bench: Bench,
) -> None:
    engine, fresh = bench.workers.engine, bench.workers.engine.open()
    it = Generation(bench, "adapter with draft-ahead", story_prompts(1)[0], SAMPLINGS["greedy"])
    draft = it.propose(4)
    text = [*it.text, *draft]
    came = engine.input_rows(it._sequence, [9], len(text) - 1)
    engine.input_rows(fresh, text[:-1], 0)
    np.testing.assert_allclose(came, engine.input_rows(fresh, [9], len(text) - 1), atol=1e-4)

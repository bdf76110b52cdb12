"""The default's replay: the device's policy along known texts, and what is known of an adapter."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from adapters.data.chains import Drafts
from adapters.data.choosing import Choice
from bench.drafters.drafts.default import DefaultReplay, MadeUpTimes
from bench.drafters.drafts.steps import KnownSteps, known_steps
from bench.drafters.rounds import Known, Round
from bench.drafters.texts.choosing import RULES
from bench.drafters.texts.kept import Text
from bench.drafters.texts.scoring import Manner, Scores
from device_runtime.drafting.building import Drafted
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.sampling.noise import PositionNoise
from device_runtime.sampling.sampler import Sampler
from tests.support.written_texts import text_of

NO_STOP: frozenset[int] = frozenset()
GREEDY_REQUEST = SamplingParams(temperature=0.0)


def steps_of(text: Text, drafts: Sequence[Sequence[int]], sureness: float = 0.5) -> KnownSteps:
    steps = [[Drafted(token, sureness) for token in draft] for draft in drafts]
    return KnownSteps(steps, steps)


def test_the_default_is_replayed_by_the_devices_own_policy() -> None:
    """A text that repeats is soon drafted at length; one that does not, hardly ever, at no loss."""
    times = MadeUpTimes()
    loop = text_of([1, 2, 3], [4, 5, 6, 7] * 12, np.empty((48, 1)), "greedy", 100)
    device = DefaultReplay(times, 0)
    walked = device.walk(loop, Known(loop.answer, 100, NO_STOP), GREEDY_REQUEST, None)
    rounds = walked.rounds
    assert sum(one.num_tokens for one in rounds) == 47
    assert len(rounds) < 24
    assert rounds[0] == Round(0, 0, 1), "what a round takes is seen first"
    num_rows = sum(one.num_drafted for one in rounds)
    expected_s = len(rounds) * times.round_s + num_rows * times.row_s
    assert walked.made_up_s == pytest.approx(expected_s)
    strange = text_of([1, 2, 3], range(10, 90), np.empty((80, 1)), "greedy", 100)
    found = device.walk(strange, Known(strange.answer, 100, NO_STOP), GREEDY_REQUEST, None)
    assert found.rounds == [Round(0, 0, 1)] * 79


def test_an_adapters_steps_are_taken_while_they_pay() -> None:
    answer = [*range(10, 90)]
    text = text_of([1, 2, 3], answer, np.empty((80, 1)), "greedy", 100)
    known = Known(text.answer, 100, NO_STOP)

    def rounds_of(times: MadeUpTimes, steps: KnownSteps) -> list[Round]:
        return DefaultReplay(times, 4).walk(text, known, GREEDY_REQUEST, steps).rounds

    right = steps_of(text, [tuple(answer[start + 1 : start + 5]) for start in range(79)])
    rounds = rounds_of(MadeUpTimes(), right)
    assert sum(one.num_tokens for one in rounds) == 79
    assert sum(one.num_tokens for one in rounds[-5:]) / 5 > 4
    wrong = steps_of(text, [(5, 5, 5, 5)] * 79)
    rounds = rounds_of(MadeUpTimes(), wrong)
    assert len(rounds) == 79
    assert sum(one.num_drafted for one in rounds) < 40, "what is useless is left, but for tries"
    late = rounds_of(MadeUpTimes(step_s=0.5), right)
    assert sum(one.num_drafted for one in late) < 20, "steps that take five rounds never pay"


def test_steps_behind_right_tokens_of_others_are_those_along_the_text() -> None:
    own, along = [[Drafted(7, 0.5), Drafted(8, 0.4)]], [[Drafted(7, 0.5), Drafted(9, 0.6)]]
    known = KnownSteps(own, along)
    assert known.behind(0, (), (5, 6)) == Drafted(7, 0.5)
    assert known.behind(0, (5,), (5, 6)) == Drafted(9, 0.6)
    assert known.behind(0, (7,), (5, 6)) == Drafted(8, 0.4)
    assert known.behind(0, (5, 6), (5, 6)) is None


@pytest.mark.parametrize("is_one_by_one", [True, False])
def test_what_an_adapter_says_is_told_apart_by_start_and_place(is_one_by_one: bool) -> None:
    """The likeliest token is the position's number times ten, plus the place's."""
    text = text_of([0, 0], [1, 2, 3, 4], np.empty((4, 1)), "greedy", 9)
    num_starts, num_places = 3, 2

    def ask(text: Text, choose: Choice, num_tokens: int) -> Drafts:
        def said(first: int, place: int) -> torch.Tensor:
            logits = torch.zeros(100)
            logits[10 * (first + place) + place] = 5.0
            return logits

        firsts, places = range(3, 3 + num_starts), range(num_places)
        if is_one_by_one:
            for first in firsts:
                for place in places:
                    choose(torch.tensor([first + place]), said(first, place)[None])
        else:
            for place in places:
                logits = torch.stack([said(first, place) for first in firsts])
                choose(torch.tensor(firsts) + place, logits)
        return Drafts(np.zeros((3, 2), np.int64), np.zeros((3, 2)), np.zeros((3, 2)))

    _, known = known_steps(text, Scores(Manner("greedy", 0)), num_places, ask)
    for steps in (known.own, known.along):
        found = [[each.token_id for each in start] for start in steps]
        assert found == [[30, 41], [40, 51], [50, 61]]
    share = float(torch.softmax(torch.tensor([5.0] + [0.0] * 99), 0)[0])
    assert known.own[0][0].confidence == pytest.approx(share)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_scores_choose_what_the_sampler_chooses_and_as_clearly(rule: str, penalty: float) -> None:
    draw = np.random.default_rng(4)
    prompt, draft = [3, 5, 7], [9, 3]
    vocabulary = np.array([1, 3, 4, 5, 9, 11, 30])
    sampling = SamplingParams(
        temperature=0.0 if rule == "greedy" else 1.0, repetition_penalty=penalty
    )
    sampler = Sampler(GenerationRequest(prompt, 9, sampling), 40, PositionNoise(6))
    scores = Scores(Manner(rule, 6, penalty))
    for _ in range(30):
        part = draw.normal(0.0, 2.0, len(vocabulary)).astype(np.float32)
        whole = np.full(40, -np.inf, np.float32)
        whole[vocabulary] = part
        token, confidence = sampler.clear_choice(whole, draft)
        assert token == sampler.choose(whole, draft)
        came = scores(
            torch.tensor([len(prompt) + len(draft)]),
            torch.from_numpy(part)[None],
            [[*prompt, *draft]],
            torch.from_numpy(vocabulary),
        )
        assert vocabulary[int(came.argmax())] == token
        assert float(came.softmax(-1).amax()) == pytest.approx(confidence, rel=1e-5)

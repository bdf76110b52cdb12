"""The policy against made-up drafters in made-up time: rounds cost what a formula says."""

import random
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.drafting.building import Drafted
from device_runtime.drafting.combined import CombinedDrafter
from device_runtime.drafting.guess import Guess
from device_runtime.drafting.policy.allowance import (
    MOST_ROUNDS,
    NUM_TOKENS_OF_WARM_UP,
    PER_TOKEN,
    Allowance,
)
from device_runtime.drafting.policy.lessons import Lessons
from device_runtime.drafting.policy.policy import DraftPolicy
from device_runtime.drafting.protocol import NoDrafter
from tests.support.drafts import NO_ENGINE, NO_SEQUENCE, result_of

CHANCES = (0.2, 0.5, 0.9)
MAX_STEPS = 6
BASE_S = 0.05
WRONG = -1
DEEP = np.zeros(1, np.float32)


@dataclass(frozen=True)
class Regime:
    """How drafters fare for a while, and what rounds cost, in shares of a plain one.

    With `is_telling` steps that are right are sure, and others are not.
    """

    num_tokens: int = 300
    guess_right: float = 0.0
    num_guesses: int = 8
    step_right: float = 0.0
    step_goes_on: float = 1.0
    is_telling: bool = False
    row: float = 0.05
    step: float = 0.15
    base_s: float = BASE_S
    jitter: float = 0.0


@dataclass(frozen=True)
class Draft:
    """What was sent in a round: who said each token, and how many steps were taken."""

    says: str
    num_passes: int


class Drafters(NoDrafter):
    """A guesser and a stepper of a text whose token at each position is the position."""

    def __init__(self, world):
        self.world = world

    def begin(self, prompt_ids):
        pass

    def decided(self, token_ids, deep=None):
        pass

    def behind(self, begun=()):
        world, regime = self.world, self.world.regime
        first = world.num_tokens + len(begun)
        guesses, is_right = [], list(begun) == list(range(world.num_tokens, first))
        for place in range(world.draw.randint(0, regime.num_guesses)):
            is_right = is_right and world.draw.random() < regime.guess_right
            guesses.append(Guess(first + place if is_right else WRONG, 2))
        return tuple(guesses)

    def steps_behind(self, sequence, text, num_undecided):
        return self, ()

    def step(self, engine, draft, take):
        world, regime = self.world, self.world.regime
        world.now += regime.step * regime.base_s
        if world.draw.random() >= regime.step_goes_on:
            return
        is_right = world.draw.random() < regime.step_right
        confidence = (0.95 if is_right else 0.05) if regime.is_telling else world.draw.random()
        take(Drafted(world.num_tokens + len(draft) if is_right else WRONG, confidence))


@dataclass
class World:
    """One policy, its drafters, and the time that both ways of decoding took, token by token."""

    seed: int = 0
    lessons: Lessons = field(default_factory=lambda: Lessons(CHANCES))
    spent_s: list[float] = field(default_factory=lambda: [0.0])
    plain_s: list[float] = field(default_factory=lambda: [0.0])
    drafts: list[Draft] = field(default_factory=list)
    regime: Regime = field(default_factory=Regime)
    num_tokens: int = 0
    now: float = 0.0

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.begin_text()

    def begin_text(self) -> None:
        both = Drafters(self)
        policy = DraftPolicy(self.lessons, MAX_STEPS)
        self.drafter = CombinedDrafter(policy, 32, lambda: self.now, both, both)
        self.drafter.begin(())

    def play(self, regime: Regime) -> None:
        """Decode as many tokens as the regime lasts."""
        self.regime = regime
        self.drafter.decided((self.num_tokens,), DEEP)
        self.num_tokens += 1
        end = self.num_tokens + regime.num_tokens
        while self.num_tokens < end:
            self.round()

    def round(self, most: int = 32) -> tuple[int, ...]:
        """One round; the draft that was sent in it."""
        regime, drafter, begun_s = self.regime, self.drafter, self.now
        asked = min(drafter.num_tokens(), most)
        text = range(self.num_tokens)
        draft = result_of(drafter.propose(NO_ENGINE, NO_SEQUENCE, text, asked))
        assert len(draft) <= asked
        now = drafter._round
        assert now is not None
        made = now.made
        assert sum(made.is_step) <= MAX_STEPS
        says = "".join("s" if is_step else "g" for is_step in made.is_step)
        self.drafts.append(Draft(says, made.num_passes))
        noise = 1.0 + regime.jitter * self.draw.random()
        self.now += regime.base_s * (noise + len(draft) * regime.row)
        num_accepted = sum(
            1
            for _ in takewhile(
                lambda pair: pair[0] == pair[1],
                zip(draft, range(self.num_tokens, self.num_tokens + len(draft)), strict=True),
            )
        )
        num_new = num_accepted + 1
        came = tuple(range(self.num_tokens, self.num_tokens + num_new))
        self.num_tokens += num_new
        drafter.decided(came, DEEP)
        drafter.on_round(len(draft), num_accepted, self.now - begun_s)
        for _ in range(num_new):
            self.spent_s.append(self.spent_s[-1] + (self.now - begun_s) / num_new)
            self.plain_s.append(self.plain_s[-1] + regime.base_s * noise)
        return draft

    def lost(self, begin: int, end: int) -> float:
        """The share of plain decoding's time that these tokens took more; negative: less."""
        plain_s = self.plain_s[end] - self.plain_s[begin]
        return (self.spent_s[end] - self.spent_s[begin]) / plain_s - 1.0


def play(*regimes: Regime, seed: int = 0) -> World:
    world = World(seed)
    for regime in regimes:
        world.play(regime)
    return world


shares = st.floats(0.0, 1.0)
regimes = st.builds(
    Regime,
    num_tokens=st.integers(20, 500),
    guess_right=shares,
    num_guesses=st.integers(0, 12),
    step_right=shares,
    step_goes_on=shares,
    is_telling=st.booleans(),
    row=st.floats(0.0, 0.3),
    step=st.floats(0.01, 0.6),
)
useless = st.builds(
    Regime,
    num_tokens=st.just(1000),
    guess_right=st.just(0.0),
    num_guesses=st.integers(0, 12),
    step_right=st.just(0.0),
    step_goes_on=shares,
    is_telling=st.booleans(),
    row=st.floats(0.0, 0.3),
    step=st.floats(0.01, 0.6),
)


@settings(deadline=None, max_examples=30)
@given(regime=useless, seed=st.integers(0, 99))
def test_useless_drafters_cost_at_most_two_percent_after_the_warm_up(regime, seed):
    world = play(regime, seed=seed)
    for begin in range(0, 1000 - NUM_TOKENS_OF_WARM_UP, 40):
        assert world.lost(begin, begin + NUM_TOKENS_OF_WARM_UP) <= 0.02
    assert world.lost(500, 1000) <= 0.015


@settings(deadline=None, max_examples=30)
@given(parts=st.lists(regimes, min_size=1, max_size=5), seed=st.integers(0, 99))
def test_however_drafters_change_no_stretch_is_more_than_two_percent_slower(parts, seed):
    row, step = parts[0].row, parts[0].step
    world = World(seed)
    for part in parts:
        # What drafts cost stays; what they are worth changes.
        world.play(Regime(**{**part.__dict__, "row": row, "step": step}))
    end = len(world.spent_s) - 1
    for begin in range(0, end - NUM_TOKENS_OF_WARM_UP, 25):
        for length in (NUM_TOKENS_OF_WARM_UP, 2 * NUM_TOKENS_OF_WARM_UP):
            assert world.lost(begin, min(begin + length, end)) <= 0.02


@settings(deadline=None, max_examples=30)
@given(regime=useless, seed=st.integers(0, 99), base_s=st.floats(0.005, 0.5))
def test_a_link_that_changes_and_trembles_costs_little_more(regime, seed, base_s):
    before = Regime(num_tokens=300, guess_right=0.6, step_right=0.6, jitter=0.4)
    world = play(before, Regime(**{**regime.__dict__, "base_s": base_s, "jitter": 0.4}), seed=seed)
    assert world.lost(400, 1300) <= 0.03


def test_a_useless_adapter_is_left_for_good_guesses():
    world = play(Regime(num_tokens=1500, guess_right=0.9, step_right=0.0, step=0.3))
    late = world.drafts[100:]
    assert sum(draft.num_passes for draft in late) * 0.3 <= 0.006 * len(late), "it is only tried"
    assert all(draft.says.count("s") <= draft.num_passes for draft in late)
    assert world.lost(200, 1500) < -0.5


def test_useless_guesses_are_left_for_a_good_adapter():
    world = play(Regime(num_tokens=1500, guess_right=0.0, step_right=0.8, step=0.05))
    assert not any("g" in draft.says for draft in world.drafts[30:])
    assert world.lost(200, 1500) < -0.5


def test_of_two_good_drafters_each_goes_on_behind_the_other():
    world = play(Regime(num_tokens=1500, guess_right=0.9, num_guesses=2, step_right=0.8, step=0.05))
    late = [draft.says for draft in world.drafts[50:]]
    assert any("gs" in says for says in late)
    assert any("sg" in says for says in late)


def test_a_drafter_that_becomes_good_is_found_again():
    bad = Regime(num_tokens=2000, num_guesses=0, step_right=0.0)
    good = Regime(num_tokens=2500, num_guesses=0, step_right=0.8, step=0.05)
    world = play(bad, good)
    assert world.lost(3500, 4500) < -0.4


def test_tries_of_a_useless_adapter_take_half_a_percent_of_the_time():
    step = 0.2
    world = play(Regime(num_tokens=4000, num_guesses=0, step_right=0.0, step=step))
    late = sum(draft.num_passes for draft in world.drafts[-2000:])
    assert 0 < late * step <= 0.005 * 2000


def test_an_adapter_that_is_right_three_times_in_eight_is_used_whatever_its_luck_is_at_first():
    for seed in range(20):
        regime = Regime(num_tokens=1000, num_guesses=0, step_right=0.375, step=0.09, row=0.03)
        world = play(regime, seed=seed)
        used = sum(draft.num_passes > 0 for draft in world.drafts[-200:])
        assert used > 150, seed


def test_a_step_whose_token_is_unlikely_is_not_sent_and_ends_the_draft():
    regime = Regime(
        num_tokens=2000, num_guesses=0, step_right=0.5, is_telling=True, step=0.05, row=0.1
    )
    late = play(regime).drafts[200:]
    assert sum(len(draft.says) for draft in late) < 0.75 * sum(draft.num_passes for draft in late)
    blind = Regime(**{**regime.__dict__, "is_telling": False})
    assert play(regime).lost(400, 2000) < play(blind).lost(400, 2000) - 0.03


def test_drafts_are_as_long_as_rounds_are():
    """A row and a step take what they take; where the link is long, more of them pay."""
    regime = Regime(num_tokens=1500, num_guesses=0, step_right=0.6, row=0.08, step=0.15)
    far = Regime(**{**regime.__dict__, "row": 0.008, "step": 0.015, "base_s": 10 * BASE_S})

    def mean_steps(world: World) -> float:
        late = world.drafts[200:]
        return sum(draft.num_passes for draft in late) / len(late)

    assert mean_steps(play(far)) > 1.5 * mean_steps(play(regime))


def test_the_next_text_begins_with_what_the_last_one_taught():
    world = play(Regime(num_tokens=1000, num_guesses=0, step_right=0.0, step=0.3))
    world.begin_text()
    world.play(Regime(num_tokens=20, num_guesses=0, step_right=0.0, step=0.3))
    assert sum(draft.num_passes for draft in world.drafts[-20:]) <= 1


def test_rows_that_cost_much_make_drafts_short():
    cheap = play(Regime(num_tokens=1000, guess_right=0.7, row=0.01))
    dear = play(Regime(num_tokens=1000, guess_right=0.7, row=0.5))

    def mean(world: World) -> float:
        late = world.drafts[200:]
        return sum(len(draft.says) for draft in late) / len(late)

    assert mean(dear) < 0.6 * mean(cheap)


@given(costs=st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(0, 9)), max_size=80))
def test_drafts_within_the_allowance_never_lose_more_than_it_says(costs):
    allowance, lost, num_tokens, most = Allowance(), 0.0, 0, 0.0
    for cost, num_accepted in costs:
        spent = min(cost, max(allowance.rounds, 0.0))
        allowance.on_round(spent, num_accepted)
        lost += spent - num_accepted
        num_tokens += num_accepted + 1
        most = max(most, lost - PER_TOKEN * num_tokens)
    assert most <= MOST_ROUNDS + 1e-9


@pytest.mark.parametrize("most", [0, 1, 5])
def test_no_more_is_drafted_than_is_asked_for(most):
    world = play(Regime(num_tokens=300, guess_right=0.9, step_right=0.9, step=0.02))
    for _ in range(20):
        assert len(world.round(most)) <= most

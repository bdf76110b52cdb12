"""The policy against made-up drafters in made-up time: rounds cost what a formula says."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.drafting.guess import Guess
from device_runtime.drafting.policy.allowance import (
    MOST_ROUNDS,
    NUM_TOKENS_OF_WARM_UP,
    PER_TOKEN,
    Allowance,
)
from device_runtime.drafting.policy.policy import DraftPolicy, Lessons, Outcome, Plan

CHANCES = (0.2, 0.5, 0.9)
MAX_STEPS = 6
BASE_S = 0.05


@dataclass(frozen=True)
class Regime:
    """How drafters fare for a while, and what rounds cost, in shares of a plain one."""

    num_tokens: int = 300
    guess_right: float = 0.0
    evidence: int = 2
    num_guesses: int = 8
    step_right: float = 0.0
    step_goes_on: float = 1.0
    row: float = 0.05
    step: float = 0.15
    base_s: float = BASE_S
    jitter: float = 0.0


@dataclass
class World:
    """One policy, its drafters, and the time that both ways of decoding took, token by token."""

    seed: int = 0
    lessons: Lessons = field(default_factory=lambda: Lessons(CHANCES))
    spent_s: list[float] = field(default_factory=lambda: [0.0])
    plain_s: list[float] = field(default_factory=lambda: [0.0])
    plans: list[Plan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.policy = DraftPolicy(self.lessons, MAX_STEPS)

    def play(self, regime: Regime) -> None:
        """Decode as many tokens as the regime lasts."""
        left = regime.num_tokens
        while left > 0:
            left -= self._round(regime)

    def _round(self, regime: Regime) -> int:
        draw, policy = self.draw, self.policy
        guesses = [Guess(0, regime.evidence)] * draw.randint(0, regime.num_guesses)
        plan = policy.plan(guesses, 32)
        assert plan.num_tokens <= 32
        assert plan.num_guesses <= len(guesses)
        assert plan.num_steps <= MAX_STEPS
        self.plans.append(plan)
        guessed = _lucky(draw, regime.guess_right, len(guesses))
        num_steps, is_stopped = 0, False
        while num_steps < plan.num_steps and not is_stopped:
            is_stopped = draw.random() >= regime.step_goes_on
            num_steps += 1
            policy.on_stop(is_stopped)
        num_drafted = num_steps - is_stopped
        stepped = _lucky(draw, regime.step_right, num_drafted)
        is_whole = guessed >= plan.num_guesses
        num_accepted = plan.num_guesses + stepped if is_whole else guessed
        num_rows = plan.num_guesses + num_drafted
        if plan.is_shadow:
            num_accepted, num_rows = min(guessed, plan.num_guesses), plan.num_guesses
        noise = 1.0 + regime.jitter * draw.random()
        draft_s = num_steps * regime.step * regime.base_s
        round_s = regime.base_s * (noise + num_rows * regime.row) + draft_s
        self._learn(plan, guessed, stepped, num_drafted, len(guesses), num_accepted)
        policy.on_round(plan, Outcome(num_rows, num_accepted, num_steps, draft_s, round_s))
        for _ in range(num_accepted + 1):
            self.spent_s.append(self.spent_s[-1] + round_s / (num_accepted + 1))
            self.plain_s.append(self.plain_s[-1] + regime.base_s * noise)
        return num_accepted + 1

    def _learn(
        self,
        plan: Plan,
        guessed: int,
        stepped: int,
        num_drafted: int,
        num_guesses: int,
        num_accepted: int,
    ) -> None:
        num_seen = min(num_accepted + 1, num_guesses)
        for place in range(num_seen):
            self.policy.on_guess(2 if num_guesses else 0, place < guessed)
            if place >= guessed:
                break
        is_tested = plan.is_shadow or guessed >= plan.num_guesses
        for place in range(num_drafted if is_tested else 0):
            self.policy.on_step(place < stepped)
            if place >= stepped:
                break

    def lost(self, begin: int, end: int) -> float:
        """The share of plain decoding's time that these tokens took more; negative: less."""
        plain_s = self.plain_s[end] - self.plain_s[begin]
        return (self.spent_s[end] - self.spent_s[begin]) / plain_s - 1.0


def _lucky(draw: random.Random, chance: float, most: int) -> int:
    num = 0
    while num < most and draw.random() < chance:
        num += 1
    return num


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
    evidence=st.just(2),
    num_guesses=st.integers(0, 12),
    step_right=shares,
    step_goes_on=shares,
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
    assert not any(plan.num_steps and not plan.is_probe for plan in world.plans[100:])
    assert world.lost(200, 1500) < -0.5


def test_useless_guesses_are_left_for_a_good_adapter():
    world = play(Regime(num_tokens=1500, guess_right=0.0, step_right=0.8, step=0.05))
    assert not any(plan.num_guesses for plan in world.plans[30:])
    assert world.lost(200, 1500) < -0.5


def test_of_two_good_drafters_the_better_one_drafts_and_goes_on_behind_the_other():
    world = play(Regime(num_tokens=1500, guess_right=0.95, num_guesses=3, step_right=0.7, step=0.1))
    assert any(plan.num_guesses and plan.num_steps > 1 for plan in world.plans[50:])


def test_a_drafter_that_becomes_good_is_found_again():
    bad = Regime(num_tokens=2000, num_guesses=0, step_right=0.0)
    good = Regime(num_tokens=2500, num_guesses=0, step_right=0.8, step=0.05)
    world = play(bad, good)
    assert world.lost(3500, 4500) < -0.4


def test_tries_of_a_useless_adapter_take_half_a_percent_of_the_time():
    step = 0.2
    world = play(Regime(num_tokens=4000, num_guesses=0, step_right=0.0, step=step))
    late = sum(plan.num_steps for plan in world.plans[-2000:])
    assert 0 < late * step <= 0.005 * 2000


def test_an_adapter_that_is_right_three_times_in_eight_is_used_whatever_its_luck_is_at_first():
    for seed in range(20):
        regime = Regime(num_tokens=1000, num_guesses=0, step_right=0.375, step=0.09, row=0.03)
        world = play(regime, seed=seed)
        used = sum(plan.num_steps > 0 for plan in world.plans[-200:])
        assert used > 150, seed


def test_an_adapter_is_tried_beside_guesses_without_sending_what_it_says():
    world = play(Regime(num_tokens=8000, guess_right=0.9, step_right=0.0, step=0.3))
    assert any(plan.is_shadow for plan in world.plans)
    assert all(plan.num_tokens == plan.num_guesses for plan in world.plans if plan.is_shadow)


def test_the_next_text_begins_with_what_the_last_one_taught():
    world = play(Regime(num_tokens=1000, num_guesses=0, step_right=0.0, step=0.3))
    fresh = DraftPolicy(world.lessons, MAX_STEPS)
    assert fresh.plan((), 32).num_steps == 0


def test_rows_that_cost_much_make_drafts_short():
    cheap = play(Regime(num_tokens=1000, guess_right=0.7, row=0.01))
    dear = play(Regime(num_tokens=1000, guess_right=0.7, row=0.5))

    def mean(world: World) -> float:
        return sum(plan.num_guesses for plan in world.plans[200:]) / len(world.plans[200:])

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
def test_no_more_is_planned_than_is_asked_for(most):
    world = play(Regime(num_tokens=300, guess_right=0.9, step_right=0.9, step=0.02))
    assert world.policy.plan([Guess(0, 2)] * 9, most).num_tokens <= most

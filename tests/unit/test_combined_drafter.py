"""Guesses and steps as one drafter: who is asked, what is sent, and what is learned of it."""

import numpy as np
import pytest

from device_runtime.drafting.building import Drafted
from device_runtime.drafting.combined import CombinedDrafter, Target
from device_runtime.drafting.guess import Guess
from device_runtime.drafting.policy.beliefs import NO_TOKEN, Chances, step_class
from device_runtime.drafting.policy.lessons import Lessons
from device_runtime.drafting.policy.policy import DraftPolicy
from device_runtime.drafting.policy.rule import DraftRule
from device_runtime.drafting.protocol import NoDrafter
from tests.support.drafts import NO_ENGINE, NO_SEQUENCE, proposed, result_of, round_of

DEEP = np.zeros(4, np.float32)
ROW_S, STEP_S = 0.01, 0.1
GOOD, POOR = 0, 1
GUESS_CHANCES = (0.8, 0.3)
"""Of a good and of a poor guess; a penalised one has half of it."""


class Guesses:
    """Guesses tokens by the draft that they are behind; all are of one evidence."""

    def __init__(self, by_draft, evidence=GOOD):
        self.by_draft = by_draft
        self.evidence = evidence
        self.looked = []

    def begin(self, prompt_ids):
        pass

    def decided(self, token_ids):
        pass

    def behind(self, begun=()):
        self.looked.append(tuple(begun))
        return tuple(Guess(token, self.evidence) for token in self.by_draft.get(tuple(begun), ()))


class Steps(NoDrafter):
    """Says a token and how sure it is, by the draft before it; takes a while for each pass."""

    def __init__(self, world, by_draft, pass_tokens):
        self.world = world
        self.by_draft = by_draft
        self.pass_tokens = pass_tokens
        self.begun = ()
        self.asked = []
        self.num_worked = 0

    def steps_behind(self, sequence, text, num_undecided):
        return self, self.begun

    def step(self, engine, draft, take):
        self.world.now += STEP_S
        behind = tuple(draft)
        self.asked.append(behind)
        for _ in range(self.pass_tokens):
            said = self.by_draft.get(behind)
            if said is None or not take(Drafted(*said)):
                return
            behind = (*behind, said[0])

    async def work(self, workers, sequence, sent):
        self.num_worked += 1
        return False


class Fixed(DraftPolicy):
    """Believes always the same: steps as much as they are sure. What it is told is written down."""

    def __init__(self, pass_tokens, **rule):
        super().__init__(Lessons(GUESS_CHANCES), 4)
        halved = tuple(0.5 * chance for chance in GUESS_CHANCES)
        steps, shares = [0.0] * (NO_TOKEN + 1), [0.0] * (NO_TOKEN + 1)
        for sureness in (0.05, 0.4, 0.6, 0.95):
            steps[step_class(sureness)] = sureness
            shares[step_class(sureness)] = 0.25
        wanted = {"worth_s": 1.0, "budget_s": 9.0, "max_tokens": 32, "max_steps": 4, **rule}
        self.fixed = DraftRule(
            chances=Chances((*GUESS_CHANCES, *halved), steps, shares),
            row_s=ROW_S,
            step_s=STEP_S,
            pass_tokens=pass_tokens,
            **wanted,
        )
        self.told = []

    def most_tokens(self, max_tokens):
        return max_tokens

    def rule(self, max_tokens, is_behind=False):
        return DraftRule(
            **{name: getattr(self.fixed, name) for name in DraftRule.__dataclass_fields__}
            | {"max_tokens": min(max_tokens, self.fixed.max_tokens)}
        )

    def on_guess(self, evidence, is_right):
        self.told.append(("guess", evidence, is_right))

    def on_step(self, step_class, is_right):
        self.told.append(("step", step_class, is_right))

    def on_class(self, step_class):
        self.told.append(("class", step_class))

    def on_round(self, outcome):
        self.outcome = outcome


class World:
    """A drafter in the middle of a text."""

    def __init__(self, guesses=None, steps=None, target=None, evidence=GOOD, passes=1, **rule):
        self.now = 0.0
        self.policy = Fixed(passes, **rule)
        self.steps = None if steps is None else Steps(self, steps, passes)
        self.guesses = None if guesses is None else Guesses(guesses, evidence)
        self.drafter = CombinedDrafter(
            self.policy, 32, lambda: self.now, self.guesses, self.steps, target
        )
        self.drafter.begin([1, 2])
        self.drafter.decided([3], DEEP)
        self.text = [1, 2, 3]

    def round(self, *decided, most=32):
        """Draft and decide; the draft that was sent."""
        num_tokens = min(self.drafter.num_tokens(), most)
        self.policy.told.clear()
        draft = proposed(self.drafter, self.text, num_tokens)
        assert len(draft) <= num_tokens
        self.drafter.decided(decided, DEEP)
        num_accepted = sum(1 for a, b in zip(draft, decided, strict=False) if a == b)
        self.drafter.on_round(len(draft), num_accepted, 0.1)
        self.drafter.num_tokens()
        return draft

    def told(self, kind):
        return [each[1:] for each in self.policy.told if each[0] == kind]


def test_good_guesses_are_sent_and_no_step_is_taken():
    world = World({(): (7, 8, 9)}, {(): (4, 0.95)})
    assert world.round(7, 8, 5) == (7, 8, 9)
    assert world.steps.asked == [(7, 8, 9)], "behind them a step is tried"
    assert world.told("guess") == [(GOOD, True), (GOOD, True), (GOOD, False)]
    assert (world.drafter.guessed.drafted, world.drafter.guessed.accepted) == (3, 2)


def test_a_step_is_taken_in_the_place_of_a_poor_guess():
    world = World({(): (7, 8)}, {(): (4, 0.95)}, evidence=POOR)
    assert world.round(4, 9) == (4,)
    assert world.told("guess") == [(POOR, False)]
    assert world.told("step") == [(step_class(0.95), True)]
    assert (world.drafter.stepped.drafted, world.drafter.stepped.accepted) == (1, 1)


def test_a_poor_guess_is_sent_where_the_step_is_less_sure_still():
    world = World({(): (7,)}, {(): (4, 0.05), (7,): (5, 0.95)}, evidence=POOR)
    assert world.round(7, 5, 6) == (7, 5)
    assert (world.drafter.guessed.accepted, world.drafter.stepped.accepted) == (1, 1)
    assert (step_class(0.05), False) in world.told("step"), "not sent, but compared"


def test_guesses_go_on_behind_steps():
    world = World({(): (), (4,): (5, 6)}, {(): (4, 0.95)})
    assert world.round(4, 5, 9) == (4, 5, 6)
    assert world.told("guess") == [(GOOD, True), (GOOD, False)]


def test_a_step_that_says_what_a_guess_says_is_believed_like_the_better_of_both():
    world = World({(): (4,)}, {(): (4, 0.05)}, evidence=POOR, worth_s=0.3, begins_with_step=True)
    assert world.round(4, 9) == (4,)
    assert world.told("step") == [(step_class(0.05), True)]
    assert world.drafter._survival == GUESS_CHANCES[POOR]


def test_a_draft_ends_before_a_token_that_is_not_worth_its_row():
    sure = {(): (4, 0.95), (4,): (5, 0.6), (4, 5): (6, 0.4), (4, 5, 6): (7, 0.4)}
    near, far = World(steps=sure, worth_s=0.3), World(steps=sure, worth_s=40.0)
    assert near.round(9) == (4, 5)
    assert far.round(9) == (4, 5, 6, 7)
    unsure = World(steps={(): (4, 0.05)}, worth_s=0.19, begins_with_step=True)
    assert unsure.round(4) == ()
    assert unsure.told("step") == [(step_class(0.05), True)]


def test_what_follows_a_wrong_token_says_nothing_of_anybody():
    world = World({(): (7,)}, {(7,): (4, 0.95), (7, 4): (5, 0.95)})
    world.round(6)
    assert world.told("step") == []
    assert len(world.told("class")) >= 2, "how often a drafter is sure is learnt there too"


def test_a_step_that_has_nothing_to_say_costs_a_step_and_is_told():
    world = World(steps={(): (4, 0.95)})
    assert world.round(4, 9) == (4,)
    assert (NO_TOKEN,) in world.told("class")
    assert world.policy.outcome.num_steps == 2
    assert world.policy.outcome.draft_s == pytest.approx(2 * STEP_S)


def test_a_pass_of_several_tokens_is_cut_where_it_becomes_unsure():
    sure = {(): (4, 0.95), (4,): (5, 0.95), (4, 5): (6, 0.05), (4, 5, 6): (7, 0.95)}
    world = World(steps=sure, passes=4, worth_s=0.19)
    assert world.round(4, 5, 9) == (4, 5)
    assert world.steps.asked == [()]
    assert world.policy.outcome.num_steps == 1


def test_steps_that_were_taken_ahead_begin_the_draft_at_no_cost():
    world = World(steps={(4, 5): (6, 0.95)})
    world.steps.begun = (Drafted(4, 0.6), Drafted(5, 0.6))
    assert world.round(4, 5, 6, 7) == (4, 5, 6)
    assert world.steps.asked[0] == (4, 5)
    full = World(steps={}, max_steps=2)
    full.steps.begun = (Drafted(4, 0.6), Drafted(5, 0.6))
    assert full.round(4, 5, 9) == (4, 5)
    assert full.policy.outcome.num_steps == 0
    assert full.policy.outcome.has_steps, "a drafter whose steps come ahead is in use"


def test_a_draft_ends_with_a_stop_token():
    world = World({(): (7, 2, 9)}, {}, Target(stop_token_ids=frozenset({2})))
    assert world.round(5) == (7, 2)


def test_guesses_of_penalised_tokens_are_classes_of_their_own():
    def is_penalised(token, draft):
        return token == 8 or token in draft

    world = World({(): (7, 8, 7)}, target=Target(is_penalised), max_steps=0)
    assert world.round(7, 8, 7, 5) == (7, 8, 7)
    shifted = GOOD + len(GUESS_CHANCES)
    assert world.told("guess") == [(GOOD, True), (shifted, True), (shifted, True)]


def test_no_more_is_drafted_than_is_asked_for():
    world = World({(): (7, 8)}, {(7, 8): (4, 0.95)})
    assert world.round(7, 9, most=1) == (7,)
    assert world.round(7, 8, 9, most=3) == (7, 8, 4)
    assert world.round(7, most=0) == ()


def test_what_a_draft_may_cost_ends_it():
    world = World({(): (7, 8, 9)}, {}, budget_s=4.5 * ROW_S)
    assert world.round(5) == (7, 8), "half of the account, all of it for one token"
    assert World({(): (7, 8)}, {}, budget_s=1.5 * ROW_S).round(5) == (7,)
    assert World({(): (7, 8)}, {}, budget_s=0.5 * ROW_S).round(5) == ()


def test_behind_an_undecided_draft_guesses_follow_it():
    world = World({(): (7, 8), (7, 8): (9, 10)})
    text = [*world.text, 7, 8]
    assert proposed(world.drafter, text, 5, num_undecided=2) == (9, 10)


def test_behind_a_draft_that_is_hardly_right_nothing_is_sent_on():
    likely, unlikely = World({(): (7, 8)}), World({(): (7, 8)}, evidence=POOR)
    likely.round(5)
    unlikely.round(5)
    assert likely.drafter.may_follow(2, 32)
    assert not unlikely.drafter.may_follow(2, 32)


def test_a_round_behind_an_undecided_one_teaches_no_times():
    world = World({(): (7,)})
    world.round(7, 8)
    world.policy.outcome = None
    world.drafter.decided([5], DEEP)
    world.drafter.on_round(3, 0, 0.5)
    assert world.policy.outcome is None


def test_a_drafter_that_is_not_in_use_is_prepared_now_and_then():
    world = World({}, {})
    prepared = []

    class Engine:
        def prepare_draft(self, sequence, num_rows):
            prepared.append(num_rows)
            return False

    workers = type(NO_ENGINE)(Engine())
    world.policy._rounds_without_steps = 9
    for epoch in range(40):
        sent = round_of(world.text, (), epoch)
        for _ in range(3):
            result_of(world.drafter.work(workers, NO_SEQUENCE, sent))
    assert 2 <= len(prepared) <= 4
    assert world.steps.num_worked == 0


def test_a_drafter_in_use_works_while_the_cloud_does():
    world = World({}, {})
    result_of(world.drafter.work(NO_ENGINE, NO_SEQUENCE, round_of(world.text, ())))
    assert world.steps.num_worked == 1

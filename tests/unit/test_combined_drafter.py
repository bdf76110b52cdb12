"""Guesses and steps as one drafter: who is asked, what is sent, and what is learned of it."""

import numpy as np
import pytest

from device_runtime.drafting.combined import CombinedDrafter
from device_runtime.drafting.guess import Guess
from device_runtime.drafting.policy.policy import DraftPolicy, Lessons, Plan
from device_runtime.drafting.protocol import NoDrafter
from tests.support.drafts import NO_ENGINE, NO_SEQUENCE, proposed, result_of, round_of

DEEP = np.zeros(4, np.float32)
SURE = 0


class Guesses:
    """Guesses the tokens it was given."""

    def __init__(self, *token_ids):
        self.token_ids = token_ids
        self.num_prompt_tokens = 0

    def begin(self, prompt_ids):
        self.num_prompt_tokens = len(prompt_ids)

    def decided(self, token_ids):
        pass

    def behind(self, begun=()):
        return tuple(Guess(token, SURE) for token in self.token_ids[len(begun) :])


class Steps(NoDrafter):
    """Says the tokens it was given, behind what was begun; takes a second for each."""

    def __init__(self, world, *token_ids):
        self.token_ids = token_ids
        self.begun = ()
        self.world = world
        self.num_asked = 0
        self.num_worked = 0

    num_begun = 0

    def go_on_behind(self, draft):
        self.begun = tuple(draft)

    async def propose(self, workers, sequence, text, num_tokens, num_undecided=0):
        self.num_asked += 1
        begun, self.begun = self.begun, ()
        new = self.token_ids[: max(0, num_tokens - len(begun))]
        self.world.now += 0.01 * len(new)
        return begun + new

    async def work(self, workers, sequence, sent):
        self.num_worked += 1
        return False


class Fixed(DraftPolicy):
    """Always the same plan; what it is told is written down."""

    def __init__(self, plan):
        super().__init__(Lessons((0.9,)), 4)
        self.fixed = plan
        self.told = []

    def plan(self, guesses, max_tokens, num_begun=0):
        return self.fixed

    def on_guess(self, evidence, is_right):
        self.told.append(("guess", is_right))

    def on_step(self, is_right):
        self.told.append(("step", is_right))

    def on_stop(self, is_stopped):
        self.told.append(("stop", is_stopped))

    def on_round(self, plan, outcome):
        self.outcome = outcome


class World:
    """A drafter in the middle of a text."""

    def __init__(self, plan, guesses=(), steps=()):
        self.now = 0.0
        self.policy = Fixed(plan)
        self.steps = Steps(self, *steps)
        self.drafter = CombinedDrafter(
            self.policy, 32, lambda: self.now, Guesses(*guesses), self.steps
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


def test_guesses_are_sent_as_planned_and_all_that_were_made_are_held_against_what_was_decided():
    world = World(Plan(num_guesses=1), guesses=(7, 8, 9))
    assert world.round(7, 8) == (7,)
    assert world.policy.told == [("guess", True), ("guess", True)]
    assert world.round(7, 5) == (7,)
    assert world.policy.told == [("guess", True), ("guess", False)]
    assert (world.drafter.guessed.drafted, world.drafter.guessed.accepted) == (2, 2)


def test_guesses_that_are_not_sent_are_held_against_it_too():
    world = World(Plan(), guesses=(7, 8))
    assert world.round(7) == ()
    assert world.policy.told == [("guess", True)]
    assert world.steps.num_asked == 0


def test_steps_go_on_behind_guesses():
    world = World(Plan(num_guesses=2, num_steps=2), guesses=(7, 8, 9), steps=(4, 5, 6))
    assert world.round(7, 8, 4, 9) == (7, 8, 4, 5)
    told = world.policy.told
    assert told[:2] == [("stop", False)] * 2
    assert [each for each in told if each[0] == "step"] == [("step", True), ("step", False)]
    assert world.policy.outcome.num_steps == 2
    assert world.policy.outcome.draft_s == pytest.approx(0.02)
    assert (world.drafter.stepped.drafted, world.drafter.stepped.accepted) == (2, 1)


def test_steps_behind_a_wrong_guess_say_nothing_of_steps():
    world = World(Plan(num_guesses=1, num_steps=2), guesses=(7,), steps=(4, 5))
    world.round(6)
    assert not [each for each in world.policy.told if each[0] == "step"]


def test_a_step_that_has_nothing_to_say_costs_a_step_and_is_told():
    world = World(Plan(num_steps=3), steps=(4,))
    assert world.round(4, 9) == (4,)
    assert ("stop", True) in world.policy.told
    assert world.policy.outcome.num_steps == 2


@pytest.mark.parametrize(("decided", "is_right"), [((4,), True), ((7, 8), False)])
def test_a_probe_beside_guesses_is_compared_and_not_sent(decided, is_right):
    world = World(Plan(1, 1, is_probe=True), guesses=(7,), steps=(4,))
    assert world.round(*decided) == (7,)
    assert ("step", is_right) in world.policy.told
    assert ("step", is_right) in world.policy.told


def test_a_probe_alone_is_sent():
    world = World(Plan(0, 1, is_probe=True), steps=(4,))
    assert world.round(4, 5) == (4,)
    assert ("step", True) in world.policy.told


def test_where_fewer_tokens_are_wanted_the_plan_is_cut():
    world = World(Plan(num_guesses=2, num_steps=2), guesses=(7, 8), steps=(4, 5))
    assert world.round(7, 9, most=1) == (7,)
    assert world.round(7, 8, 9, most=3) == (7, 8, 4)


def test_behind_an_undecided_draft_guesses_follow_it():
    world = World(Plan(num_guesses=2), guesses=(7, 8, 9, 10))
    text = [*world.text, 7, 8]
    assert proposed(world.drafter, text, 5, num_undecided=2) == (9, 10)


def test_a_round_behind_an_undecided_one_teaches_no_times():
    world = World(Plan(num_guesses=1), guesses=(7,))
    world.round(7, 8)
    world.policy.outcome = None
    world.drafter.decided([5], DEEP)
    world.drafter.on_round(3, 0, 0.5)
    assert world.policy.outcome is None


def test_a_drafter_that_is_not_in_use_is_prepared_now_and_then():
    world = World(Plan())
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
    world = World(Plan(num_steps=1), steps=(4,))
    result_of(world.drafter.work(NO_ENGINE, NO_SEQUENCE, round_of(world.text, ())))
    assert world.steps.num_worked == 1

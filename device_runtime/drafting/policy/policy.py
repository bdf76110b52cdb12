"""One decision per round: which drafter, and how many tokens.

Two kinds of drafters are told apart. Guesses are there before anybody asks and cost nothing until
they are sent; each comes with a class of evidence. Steps are those of a drafter that computes, such
as an adapter, each of which takes time and gives one token or none. A draft is some guesses, some
steps, or steps behind guesses.

Guesses are tried without being sent: what the target decides is held against them. Steps are tried
now and then, more rarely the longer they are of no use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from device_runtime.drafting.guess import Guess, survivals
from device_runtime.drafting.policy.allowance import Allowance
from device_runtime.drafting.policy.chances import Chance
from device_runtime.drafting.policy.costs import RoundCosts

_PRIOR_WEIGHT = 8.0
"""So many cases the chances weigh that guesses come with."""

_STEP_RIGHT = 0.5
"""A step's chance before anything was seen: worth a try."""

_STEP_PRIOR_WEIGHT = 8.0
"""So many cases that assumption weighs: five wrong ones in a row are bad luck for most."""

_STEP_FADING, _MOST_STEPS_INHERITED = 0.97, 12.0
"""Steps differ less from text to text than guesses do: about the last 33 of a text count."""

_STEP_GOES_ON = 0.8

_LEAST_SURVIVAL = 0.02
"""Guesses that are less likely to count are not looked at."""

_ADVANTAGE_TO_BEGIN = 1.02
"""By so much steps must be better than what was done without them, to be begun with."""

_LEAST_PROBE_ROUNDS = 8
"""Rounds between two tries of steps that are not used, at least."""

_PROBE_SHARE = 0.005
"""So much of the time may go into such tries. One try says little of a drafter that is right three
times in eight, so they go on at this price."""

_MOST_SHARE = 0.5
"""A draft of several tokens may cost so much of the allowance: a good drafter with bad luck goes on
with shorter drafts, and is not out of means at once."""

_UNSURE_TOKENS = 2
"""Most tokens of a draft while the cost of a row is not known."""

_SPREAD_ROUNDS = 16
"""Where rounds are too much alike to tell, every such round is as short."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A draft of the first guesses and of steps behind them.

    A probe is a step that is taken to be tried. Where there are guesses too, it is taken in the
    place of the first of them, and only compared.
    """

    num_guesses: int = 0
    num_steps: int = 0
    is_probe: bool = False

    @property
    def num_tokens(self) -> int:
        """The most tokens that are sent."""
        return self.num_guesses + (0 if self.is_shadow else self.num_steps)

    @property
    def is_shadow(self) -> bool:
        """Whether the step's token is only compared."""
        return self.is_probe and self.num_guesses > 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a plan: rows sent, drafted tokens that stayed, seconds of drafting and all."""

    num_rows: int
    num_accepted: int
    num_steps: int
    """Steps that were computed."""
    draft_s: float
    round_s: float | None
    """None where rounds sent behind others took part of it."""


@dataclass(frozen=True, slots=True)
class _StepsCost:
    """Seconds that some steps and their rows are expected to take, and take at most."""

    expected_s: float
    worst_s: float


class Lessons:
    """What all texts of a runtime teach: costs, chances, and the allowance that they live on."""

    def __init__(self, evidence_chances: Sequence[float]) -> None:
        self.costs = RoundCosts()
        self.evidence = [Chance(chance, _PRIOR_WEIGHT) for chance in evidence_chances]
        self.step_right = Chance(_STEP_RIGHT, _STEP_PRIOR_WEIGHT)
        self.step_goes_on = Chance(_STEP_GOES_ON, _STEP_PRIOR_WEIGHT)
        self.allowance = Allowance()


class DraftPolicy:
    """Decides for one text, and learns from it for all; at most `max_steps` steps at a time.

    The tokens expected of a draft and its expected time give its rate; the draft with the highest
    rate is made, if the allowance can bear that all of it is wrong.

    Source: the formula of Leviathan et al., 2023 (arXiv:2211.17192), section 3, with measured
    times, and a chance for each token in place of one for all.
    """

    def __init__(self, lessons: Lessons, max_steps: int) -> None:
        self._lessons = lessons
        self._max_steps = max_steps
        self._evidence: dict[int, Chance] = {}
        self._chances = [chance.value for chance in lessons.evidence]
        self._step_right = _of_one_text(lessons.step_right)
        self._step_goes_on = _of_one_text(lessons.step_goes_on)
        self._allowance = Allowance(lessons.allowance.rounds)
        self._has_steps = False
        self._rounds_without_steps = 0
        self._num_rounds = 1

    @property
    def uses_steps(self) -> bool:
        """Whether the drafter that computes is about to be needed."""
        return self._has_steps or self._rounds_without_steps < 2

    def plan(self, guesses: Sequence[Guess], max_tokens: int, num_begun: int = 0) -> Plan:
        """The next draft, of at most `max_tokens` tokens; `num_begun` steps are taken already."""
        costs = self._lessons.costs
        if costs.is_new:
            # What a round takes without a draft is what all costs are measured by.
            return Plan()
        is_to_differ = costs.are_alike and self._num_rounds % _SPREAD_ROUNDS == 0
        is_unsure = is_to_differ or not costs.has_seen_rows
        most = min(max_tokens, _UNSURE_TOKENS) if is_unsure else max_tokens
        plan = self._best(list(survivals(guesses[:most], self._chances)), most, num_begun)
        return plan if plan.num_steps else self._with_probe(plan, max_tokens)

    def on_guess(self, evidence: int, is_right: bool) -> None:
        """Take whether a guess was right, sent or not, where all before it were."""
        common = self._lessons.evidence[evidence]
        common.learn(is_right)
        own = self._evidence.get(evidence)
        if own is None:
            own = self._evidence[evidence] = common.for_one_text()
        else:
            own.learn(is_right)
        self._chances[evidence] = own.value

    def on_step(self, is_right: bool) -> None:
        """Take whether a step's token was right, sent or not, where all before it were."""
        self._step_right.learn(is_right)
        self._lessons.step_right.learn(is_right)

    def on_stop(self, is_stopped: bool) -> None:
        """Take whether a step was the last since it had nothing to say."""
        self._step_goes_on.learn(not is_stopped)
        self._lessons.step_goes_on.learn(not is_stopped)

    def on_round(self, plan: Plan, outcome: Outcome) -> None:
        """Take what a plan has brought, once its tokens are decided."""
        self._num_rounds += 1
        self._has_steps = plan.num_steps > 0 and not plan.is_probe
        self._rounds_without_steps = 0 if plan.num_steps else self._rounds_without_steps + 1
        costs = self._lessons.costs
        costs.on_steps(outcome.num_steps, outcome.draft_s if outcome.num_steps else 0.0)
        if outcome.round_s is not None:
            costs.on_round(outcome.num_rows, max(outcome.round_s - outcome.draft_s, 0.0))
        spent_s = outcome.num_rows * costs.row_s + outcome.draft_s
        self._allowance.on_round(spent_s / costs.base_s, outcome.num_accepted)
        self._lessons.allowance.rounds = self._allowance.rounds

    def _best(self, chances: Sequence[float], max_tokens: int, num_begun: int) -> Plan:
        """The plan of the highest rate; `chances` are those that guesses count."""
        costs, most_s = self._lessons.costs, self._allowance.rounds * self._lessons.costs.base_s
        right_and_on = self._step_right.value * self._step_goes_on.value
        max_steps = self._max_steps if costs.has_seen_steps else min(self._max_steps, 1)
        gained = [0.0, *accumulate(right_and_on**step for step in range(1, max_steps + 1))]
        steps_s = self._steps_s(max_steps, num_begun)
        best, best_rate = Plan(), 1.0 / costs.base_s
        plain, plain_rate = best, best_rate
        num_tokens = 1.0
        for num_guesses, chance in enumerate((1.0, *chances)):
            if chance < _LEAST_SURVIVAL:
                break
            if num_guesses == 1:
                # What the drafter has begun follows the text and not a guess.
                steps_s = self._steps_s(max_steps, 0)
            num_tokens += chance if num_guesses else 0.0
            guesses_s = num_guesses * costs.row_s
            for num_steps, cost in enumerate(steps_s[: max_tokens - num_guesses + 1]):
                share = 1.0 if num_guesses + num_steps == 1 else _MOST_SHARE
                if guesses_s + cost.worst_s > share * most_s:
                    break
                rate = (num_tokens + chance * gained[num_steps]) / (
                    costs.base_s + guesses_s + cost.expected_s
                )
                if num_steps == 0 and rate > plain_rate:
                    plain, plain_rate = Plan(num_guesses), rate
                if rate > best_rate:
                    best, best_rate = Plan(num_guesses, num_steps), rate
        needed = 1.0 if self._has_steps else _ADVANTAGE_TO_BEGIN
        return best if best_rate > needed * plain_rate else plain

    def _steps_s(self, max_steps: int, num_begun: int) -> list[_StepsCost]:
        """What 0, 1, 2, ... steps and their rows take, of which `num_begun` are taken already."""
        costs, on = self._lessons.costs, self._step_goes_on.value
        found = [_StepsCost(0.0, 0.0)]
        for step in range(1, max_steps + 1):
            # A step is taken if no step before it was the last.
            step_s = costs.step_s if step > num_begun else 0.0
            expected_s = on ** (step - 1) * step_s + on**step * costs.row_s
            last = found[-1]
            found.append(
                _StepsCost(last.expected_s + expected_s, last.worst_s + step_s + costs.row_s)
            )
        return found

    def _with_probe(self, plan: Plan, max_tokens: int) -> Plan:
        """The plan with a step to be tried, if it is time for one and it can be borne."""
        costs = self._lessons.costs
        cost_s = costs.step_s + (plan.num_guesses or 1) * costs.row_s
        may = self._max_steps > 0 and max_tokens > 0
        rounds_between = max(_LEAST_PROBE_ROUNDS, cost_s / costs.base_s / _PROBE_SHARE)
        is_time = self._rounds_without_steps >= rounds_between
        if may and is_time and cost_s <= self._allowance.rounds * costs.base_s:
            return Plan(plan.num_guesses, 1, is_probe=True)
        return plan


def _of_one_text(chance: Chance) -> Chance:
    return chance.for_one_text(_STEP_FADING, _MOST_STEPS_INHERITED)

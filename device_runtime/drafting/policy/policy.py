"""What each draft of a text is cut by, and what is learnt of it.

Two kinds of drafters are told apart. Guesses are there before anybody asks and cost nothing until
they are sent; each comes with a class of evidence. Steps are those of a drafter that computes, such
as an adapter, each of which takes time and gives a token, with how clear its choice was, or none.

Guesses are tried without being sent: what the target decides is held against them. So are steps,
once they are taken; where none is, one is tried now and then.
"""

from dataclasses import dataclass

from device_runtime.drafting.policy.allowance import Allowance
from device_runtime.drafting.policy.beliefs import TextBeliefs
from device_runtime.drafting.policy.kind import SamplingKind
from device_runtime.drafting.policy.lessons import Lessons
from device_runtime.drafting.policy.rule import DraftRule

_LEAST_PROBE_ROUNDS = 8
"""Rounds between two tries of steps that are not used, at least."""

_PROBE_SHARE = 0.005
"""So much of the time may go into such tries. One try says little of a drafter that is right three
times in eight, so they go on at this price."""

_UNSURE_TOKENS = 2
"""Most tokens of a draft while the cost of a row is not known."""

_SPREAD_ROUNDS = 16
"""Where rounds are too much alike to tell, every such round is as short."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a draft: rows sent, drafted tokens that stayed, seconds of drafting and all."""

    num_rows: int
    num_accepted: int
    num_steps: int
    """Passes of the drafter that computes."""
    has_steps: bool
    """Whether it said anything, perhaps before the draft was asked for."""
    draft_s: float
    round_s: float | None
    """None where other rounds took part of it."""


class DraftPolicy:
    """Decides for one text, and learns from it for all; at most `max_steps` steps at a time.

    Source: the formula of Leviathan et al., 2023 (arXiv:2211.17192), section 3, with measured
    times, and a chance for each token in place of one for all.
    """

    def __init__(
        self,
        lessons: Lessons,
        max_steps: int,
        kind: SamplingKind | None = None,
        pass_tokens: int = 1,
    ) -> None:
        self._lessons = lessons
        self._max_steps = max_steps
        self._pass_tokens = pass_tokens
        common = lessons.of(kind or SamplingKind())
        self._beliefs = TextBeliefs(common)
        self._common_pace, self._pace = common.pace, common.pace.for_one_text()
        self._allowance = Allowance(lessons.allowance.rounds)
        self._rounds_without_steps = 0
        self._num_rounds = 1

    @property
    def num_evidences(self) -> int:
        """Classes that guesses come in; as many more are those of penalised tokens."""
        return self._lessons.num_evidences

    @property
    def uses_steps(self) -> bool:
        """Whether the drafter that computes is about to be needed."""
        return self._rounds_without_steps < _LEAST_PROBE_ROUNDS

    def most_tokens(self, max_tokens: int) -> int:
        """The most tokens of the next draft, of which there may be `max_tokens`."""
        costs = self._lessons.costs
        if costs.is_new:
            # What a round takes without a draft is what all costs are measured by.
            return 0
        is_to_differ = costs.are_alike and self._num_rounds % _SPREAD_ROUNDS == 0
        is_unsure = is_to_differ or not costs.has_seen_rows
        return min(max_tokens, _UNSURE_TOKENS) if is_unsure else max_tokens

    def rule(self, max_tokens: int, is_behind: bool = False) -> DraftRule:
        """What the next draft is cut by; behind an undecided one no drafter is tried."""
        costs = self._lessons.costs
        max_tokens = self.most_tokens(max_tokens)
        budget_s = self._allowance.rounds * costs.base_s
        is_probe = not is_behind and max_tokens > 0 and self._is_time_to_try(budget_s)
        return DraftRule(
            chances=self._beliefs.chances(),
            worth_s=costs.base_s * self._pace.rounds_per_token(),
            row_s=costs.row_s,
            step_s=costs.step_s,
            budget_s=budget_s,
            max_tokens=max_tokens,
            max_steps=self._max_steps if costs.has_seen_steps else min(self._max_steps, 1),
            pass_tokens=self._pass_tokens,
            begins_with_step=is_probe,
        )

    def on_guess(self, evidence: int, is_right: bool) -> None:
        """Take whether a guess was right, sent or not, where all before it were."""
        self._beliefs.on_guess(evidence, is_right)

    def on_step(self, step_class: int, is_right: bool) -> None:
        """Take whether a step's token was right, sent or not, where all before it were."""
        self._beliefs.on_step(step_class, is_right)

    def on_class(self, step_class: int) -> None:
        """Take of which class a step was."""
        self._beliefs.on_class(step_class)

    def on_round(self, outcome: Outcome) -> None:
        """Take what a draft has brought, once its tokens are decided."""
        self._num_rounds += 1
        self._rounds_without_steps = 0 if outcome.has_steps else self._rounds_without_steps + 1
        costs = self._lessons.costs
        costs.on_steps(outcome.num_steps, outcome.draft_s if outcome.num_steps else 0.0)
        if outcome.round_s is not None:
            costs.on_round(outcome.num_rows, max(outcome.round_s - outcome.draft_s, 0.0))
        cost = (outcome.num_rows * costs.row_s + outcome.draft_s) / costs.base_s
        for pace in (self._common_pace, self._pace):
            pace.on_round(outcome.num_accepted + 1, cost)
        self._allowance.on_round(cost, outcome.num_accepted)
        self._lessons.allowance.rounds = self._allowance.rounds

    def _is_time_to_try(self, budget_s: float) -> bool:
        """Whether steps were not taken for so long that one is to be tried, and can be borne."""
        costs = self._lessons.costs
        cost_s = costs.step_s + costs.row_s
        rounds_between = max(_LEAST_PROBE_ROUNDS, cost_s / costs.base_s / _PROBE_SHARE)
        is_time = self._max_steps > 0 and self._rounds_without_steps >= rounds_between
        return is_time and cost_s <= budget_s

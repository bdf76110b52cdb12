"""How many rows a step may have, and when a refused device may come back."""

from cloud_server.core.config import CoreConfig
from cloud_server.core.scheduling.load import StepTimes, suggest_retry_s

_FIRST_TOKENS = 16
"""Rows of the first step: of an engine that nothing is known of, even a slow one is soon done."""

_CHANGE = 4
"""A budget grows and shrinks by this factor at most from one step to the next."""

_QUICK_TOKENS = 8
"""Steps of so few rows show what a step takes at the least: a draft and little else."""

_PAST_WEIGHT = 0.8
"""Weight of the past in the least step's time; one late step does not make an engine slow."""


class Pace:
    """The core's measured step times, and the step budget that follows them to a target.

    The budget is steered, not looked up: a step that took too long shrinks it, a step that was
    nearly full and quick enough lets it grow. It so follows whatever makes rows dearer: other work
    on the machine, and long contexts, whose rows take up to a few times as long (attention grows
    with the context, a step or two of a new mix are too long at the most by that).
    """

    def __init__(self, config: CoreConfig) -> None:
        self._target_s = config.target_step_s
        self._most_tokens = config.step_budget_tokens
        self._times = StepTimes()
        self.least_step_s = 0.0
        """What a step of few rows takes; 0 before the first."""
        self.budget_tokens = self._most_tokens
        if self._target_s > 0:
            self.budget_tokens = min(_FIRST_TOKENS, self._most_tokens)

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Learn from one step of `num_tokens` rows."""
        self._times.observe(num_tokens, seconds)
        if self._target_s == 0 or num_tokens < 1:
            return
        if num_tokens <= _QUICK_TOKENS:
            self._observe_least(seconds)
        # Below twice the time of the least step there is little to win, and much to lose: half of
        # every step would be what each costs, however few its rows.
        limit_s = max(self._target_s, 2 * self.least_step_s)
        before = self.budget_tokens
        if seconds > limit_s:
            fitting = max(int(num_tokens * limit_s / seconds), before // _CHANGE, 1)
            self.budget_tokens = min(before, fitting)
        elif 2 * num_tokens >= before:
            room = _CHANGE if seconds * _CHANGE <= limit_s else limit_s / seconds
            fitting = min(int(num_tokens * room), self._most_tokens)
            self.budget_tokens = max(before, fitting)

    def run_s(self, num_tokens: int) -> float:
        """How long so many rows take, step after step; 0 before the first step."""
        step_s = self._times.estimate_s(self.budget_tokens)
        return 0.0 if step_s is None else num_tokens / self.budget_tokens * step_s

    def retry_s(self, num_queued_tokens: int) -> float:
        """Seconds after which a refused device may come back."""
        return suggest_retry_s(num_queued_tokens, self.budget_tokens, self._times)

    def _observe_least(self, seconds: float) -> None:
        is_less = self.least_step_s == 0 or seconds < self.least_step_s
        past_s = seconds if is_less else self.least_step_s
        self.least_step_s = _PAST_WEIGHT * past_s + (1 - _PAST_WEIGHT) * seconds

"""What a step will take: a line over rows to verify and rows of prompts, learnt as steps end."""

_FIRST_FIXED = 0.9
"""Of the first step's time is taken for what every step costs, until steps differ: rows that are
believed too cheap are tried and found out, rows that are believed too dear might never be."""

_FIRST_UNSURE = 1.0
"""Of each cost at first."""

_STEP_CHANGE = 0.1
"""By which the cost of what a step shows may have changed since the one before: contexts grow, and
rows at the end of a long prompt take a few times as long as at its beginning."""

_STEP_NOISE = 0.1
"""Of a step's time, by which like steps differ."""

_UNSURE_SHARE = 0.1
"""At the least by as much as if it took this share of the step's time: what seemed to cost nothing
is learnt again."""

_LEAST_S = 1e-9
"""Of each cost: none is nothing, so that whoever divides by a known one may."""

_MOST_LATE = 3.0
"""A step that took longer than so many times what was expected counts as one that took that."""


class StepModel:
    """`fixed + verified x a + prompt x b` seconds, by a Kalman filter: steps that mix both kinds of
    rows, steps of either, and what was sure before, say together which of the three costs moved."""

    def __init__(self) -> None:
        self._costs_s: list[float] = []
        self._unsure: list[list[float]] = []
        """Covariance of the costs."""

    @property
    def is_known(self) -> bool:
        """Whether a step was observed."""
        return bool(self._costs_s)

    def seconds(self, num_verified: int, num_prompt: int) -> float:
        """What a step with these rows is expected to take; 0 before the first."""
        shown = (1.0, float(num_verified), float(num_prompt))
        return sum(cost_s * num for cost_s, num in zip(self._costs_s, shown, strict=False))

    def num_prompt_rows(self, num_verified: int, limit_s: float) -> int:
        """The rows of prompts, beside others to verify, with which a step takes `limit_s`."""
        left_s = limit_s - self.seconds(num_verified, 0)
        return max(0, int(left_s / self._costs_s[2])) if self.is_known else 0

    def observe(self, num_verified: int, num_prompt: int, seconds: float) -> None:
        """Learn from a step with these rows."""
        shown = (1.0, float(num_verified), float(num_prompt))
        if seconds <= 0 or num_verified + num_prompt == 0:
            return
        if not self.is_known:
            row_s = (1 - _FIRST_FIXED) * seconds / (num_verified + num_prompt)
            self._costs_s = [_FIRST_FIXED * seconds, row_s, row_s]
            self._unsure = [
                [(_FIRST_UNSURE * cost_s) ** 2 if row == column else 0.0 for column in range(3)]
                for row, cost_s in enumerate(self._costs_s)
            ]
        seconds = min(seconds, _MOST_LATE * self.seconds(num_verified, num_prompt))
        for index, num in enumerate(shown):
            if num:
                moved_s = _STEP_CHANGE * max(self._costs_s[index], _UNSURE_SHARE * seconds / num)
                self._unsure[index][index] += moved_s**2
        self._learn(shown, seconds)

    def _learn(self, shown: tuple[float, float, float], seconds: float) -> None:
        """One step of the filter."""
        unsure = self._unsure
        towards = [sum(row[i] * shown[i] for i in range(3)) for row in unsure]
        spread = sum(towards[i] * shown[i] for i in range(3)) + (_STEP_NOISE * seconds) ** 2
        wrong_s = seconds - sum(self._costs_s[i] * shown[i] for i in range(3))
        for index in range(3):
            cost_s = self._costs_s[index] + towards[index] / spread * wrong_s
            self._costs_s[index] = max(cost_s, _LEAST_S)
        self._unsure = [
            [unsure[i][j] - towards[i] * towards[j] / spread for j in range(3)] for i in range(3)
        ]

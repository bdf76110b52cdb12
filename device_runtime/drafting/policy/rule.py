"""How far one draft goes: a token is sent, and a step taken, while that is expected to pay.

A token that is accepted saves what a token takes at present. It is accepted if it is right and all
before it are. So it is worth its row while

    survival * chance * worth_s > row_s

and a step is worth taking while the same, expected over what the drafter may say, exceeds the
step's own time besides. Survival only falls along a draft, so what does not pay at one place does
not pay behind it either, and looking one place ahead is enough.

Source: the one-step-look-ahead rule of optimal stopping (Chow and Robbins, 1961); `worth_s` is the
price of time in renewal-reward problems (Dinkelbach, 1967).
"""

from dataclasses import dataclass
from enum import Enum

from device_runtime.drafting.policy.beliefs import Chances

MOST_SHARE = 0.5
"""A draft of several tokens may cost so much of the allowance: a good drafter with bad luck goes on
with shorter drafts, and is not out of means at once."""


class Move(Enum):
    """What comes next in a draft."""

    END = "end"
    GUESS = "guess"
    STEP = "step"


@dataclass(frozen=True, slots=True)
class DraftRule:
    """What one draft is cut by; `worth_s` is what an accepted token saves.

    A pass of the drafter that computes takes `step_s` and gives up to `pass_tokens` tokens.
    """

    chances: Chances
    worth_s: float
    row_s: float
    step_s: float
    budget_s: float
    """What the draft may cost if all of it is wrong."""
    max_tokens: int
    max_steps: int
    """Tokens that may come from the drafter that computes."""
    pass_tokens: int = 1
    begins_with_step: bool = False
    """To try a drafter that is not in use."""

    def is_worth_sending(self, survival: float, chance: float) -> bool:
        """Whether a token of this chance is, behind a draft that is right by `survival`."""
        return survival * chance * self.worth_s > self.row_s

    def can_bear(self, num_tokens: int, spent_s: float, further_s: float) -> bool:
        """Whether a draft so far may cost so much more; `spent_s` does not count its rows."""
        share = 1.0 if num_tokens == 0 else MOST_SHARE
        return num_tokens * self.row_s + spent_s + further_s <= share * self.budget_s

    def next(
        self, num_tokens: int, num_steps: int, survival: float, spent_s: float, guess_chance: float
    ) -> Move:
        """What the draft goes on with, if with anything; a chance of 0 stands for no guess."""
        if num_tokens >= self.max_tokens:
            return Move.END
        may_step = num_steps < self.max_steps and self.can_bear(
            num_tokens, spent_s, self.step_s + self.row_s
        )
        if may_step and self.begins_with_step and num_tokens == num_steps == 0:
            return Move.STEP
        guess_s = survival * guess_chance * self.worth_s - self.row_s
        step_s = self._step_brings_s(survival, guess_chance) if may_step else 0.0
        if step_s > max(guess_s, 0.0):
            return Move.STEP
        if guess_s > 0.0 and self.can_bear(num_tokens, spent_s, self.row_s):
            return Move.GUESS
        return Move.END

    def _step_brings_s(self, survival: float, guess_chance: float) -> float:
        """Expected of a pass, its own time taken off; where it is less sure, the guess counts."""
        brought_s = -self.step_s
        classes = list(zip(self.chances.shares, self.chances.steps, strict=True))
        for _ in range(self.pass_tokens):
            worth_s = survival * self.worth_s
            brought_s += sum(
                share * max(max(chance, guess_chance) * worth_s - self.row_s, 0.0)
                for share, chance in classes
            )
            survival *= sum(share * chance for share, chance in classes)
            guess_chance = 0.0
        return brought_s

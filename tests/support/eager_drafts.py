"""Drafts as long as they may be, whatever they cost: for tests of what drafts are made of."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from unittest import mock

from device_runtime.drafting.policy.beliefs import Chances
from device_runtime.drafting.policy.policy import DraftPolicy
from device_runtime.drafting.policy.rule import DraftRule, Move

_MOST_GUESSES_OF_TWO = 2


@dataclass(frozen=True, slots=True)
class EagerRule(DraftRule):
    """All guesses, then all steps; if it is `mixing`, two guesses at most before steps."""

    mixing: bool = False

    def is_worth_sending(self, survival: float, chance: float) -> bool:
        return True

    def can_bear(self, num_tokens: int, spent_s: float, further_s: float) -> bool:
        return True

    def next(
        self, num_tokens: int, num_steps: int, survival: float, spent_s: float, guess_chance: float
    ) -> Move:
        if num_tokens >= self.max_tokens:
            return Move.END
        may_step = num_steps < self.max_steps
        is_guess = guess_chance > 0.0 and (not self.mixing or num_tokens % 4 < _MOST_GUESSES_OF_TWO)
        if is_guess or (guess_chance > 0.0 and not may_step):
            return Move.GUESS
        return Move.STEP if may_step else Move.END


class EagerPolicy(DraftPolicy):
    """Wants all that may be drafted; in every other round guesses and steps by turns."""

    _is_odd = False

    def most_tokens(self, max_tokens: int) -> int:
        return max_tokens

    def rule(self, max_tokens: int, is_behind: bool = False) -> DraftRule:
        self._is_odd = not self._is_odd
        plain = super().rule(max_tokens, is_behind)
        values = {each.name: getattr(plain, each.name) for each in fields(plain)}
        values |= {
            "max_tokens": max_tokens,
            "max_steps": self._max_steps,
            "chances": _all_right(plain.chances),
        }
        return EagerRule(**values, mixing=self._is_odd)


def _all_right(chances: Chances) -> Chances:
    """Whatever is drafted is believed, so that another draft may be sent on behind it."""
    return Chances([1.0] * len(chances.guesses), [1.0] * len(chances.steps), chances.shares)


@contextmanager
def eager_drafts() -> Iterator[None]:
    """While it is entered, generations that begin draft so."""
    with mock.patch("device_runtime.drafting.choice.DraftPolicy", EagerPolicy):
        yield

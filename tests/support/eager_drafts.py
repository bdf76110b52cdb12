"""Drafts as long as they may be, whatever they cost: for tests of what drafts are made of."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

from device_runtime.drafting.guess import Guess
from device_runtime.drafting.policy.policy import DraftPolicy, Plan


class EagerPolicy(DraftPolicy):
    """Plans all guesses and all steps; in every other round two guesses at most before steps."""

    _is_odd = False

    def plan(self, guesses: Sequence[Guess], max_tokens: int, num_begun: int = 0) -> Plan:
        self._is_odd = not self._is_odd
        num_guesses = len(guesses[:max_tokens])
        if self._is_odd and self._max_steps > 0:
            num_guesses = min(num_guesses, 2)
        return Plan(num_guesses, min(self._max_steps, max_tokens - num_guesses))


@contextmanager
def eager_drafts() -> Iterator[None]:
    """While it is entered, generations that begin draft so."""
    with mock.patch("device_runtime.drafting.choice.DraftPolicy", EagerPolicy):
        yield

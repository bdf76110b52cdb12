"""A drafted token, and how much speaks for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guess:
    """One token of a draft. `evidence` is a class of guesses that are about equally often right."""

    token_id: int
    evidence: int


def survivals(guesses: Sequence[Guess], chances: Sequence[float]) -> Iterator[float]:
    """For each guess the chance that it and all before it are right; `chances` by evidence."""
    chance = 1.0
    for guess in guesses:
        chance *= chances[guess.evidence]
        yield chance

"""A drafted token, and how much speaks for it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guess:
    """One token of a draft. `evidence` is a class of guesses that are about equally often right."""

    token_id: int
    evidence: int

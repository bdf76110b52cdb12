"""Drafters held against each other on the same held-out texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapters.data.rounds import Trial, exact_acceptance, walk_rounds
from adapters.draft_cost import DraftCost
from adapters.measuring.threshold import tokens_per_trip
from adapters.options import Lookup

_IS_DRAFTED = 0.5
"""Between the confidences 1 of a token that lookup drafted and 0 of one that it did not."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What one drafter reaches, as the device would run it.

    `speed` is the tokens in the time of one round trip without a draft, at the stated costs: 1
    without drafting.
    """

    tokens_per_round: float
    speed: float


NO_DRAFTING = Standing(1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The trained adapter beside what it would replace; `before` None: there was no adapter."""

    num_prompts: int
    ngram: Standing
    now: Standing
    before: Standing | None = None

    @property
    def faster(self) -> str | None:
        """What is faster than the trained adapter, or as fast without one; None if nothing is.

        Prompt lookup is no rival: a device takes its guesses too, and the adapter's where it has
        none.
        """
        now = self.now.speed
        rivals = {"no drafting": NO_DRAFTING.speed} if now <= NO_DRAFTING.speed else {}
        if self.before is not None and self.before.speed > now:
            rivals["the adapter that is there"] = self.before.speed
        return max(rivals, key=rivals.__getitem__, default=None)


def adapter_standing(trials: Sequence[Trial], stop_threshold: float, cost: DraftCost) -> Standing:
    """What an adapter reaches with drafts that stop at its threshold.

    Raises:
        ValueError: the texts are too short for one whole round.
    """
    figures = walk_rounds(trials, stop_threshold)
    return Standing(figures.tokens_per_round, tokens_per_trip(figures, cost))


def lookup_standing(trials: Sequence[Trial], cost: DraftCost) -> Standing:
    """What prompt lookup reaches; its steps cost nothing, its rows do.

    Raises:
        ValueError: the texts are too short for one whole round.
    """
    figures = walk_rounds(trials, _IS_DRAFTED)
    free = DraftCost(step=0.0, row=cost.row)
    return Standing(figures.tokens_per_round, tokens_per_trip(figures, free))


def lookup_trial(
    text: Sequence[int], num_prompt_tokens: int, num_tokens: int, lookup: Lookup
) -> Trial:
    """Prompt lookup's drafts of `num_tokens`, from where an adapter's begin as well."""
    starts = range(num_prompt_tokens, len(text))
    drafted = np.zeros((len(starts), num_tokens), np.int64)
    confidences = np.zeros((len(starts), num_tokens), np.float64)
    for row, start in enumerate(starts):
        draft = lookup(text[:start], num_tokens)
        drafted[row, : len(draft)] = draft
        confidences[row, : len(draft)] = 1.0
    return Trial(exact_acceptance(drafted, text[num_prompt_tokens:]), confidences)

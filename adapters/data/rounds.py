"""Rounds of speculative decoding over a known text: how far each draft gets. Pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trial:
    """Drafts of `k` tokens from each of `S` starts along one text, both arrays `[S, k]`.

    `acceptance` is the probability that the rule keeps a token, given that it kept those before
    it: 0 or 1 where draft and target choose for themselves. Drafting from a start ends before the
    first token whose `confidences` value is below the stop threshold.
    """

    acceptance: Probabilities
    confidences: Probabilities


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """What a drafter achieves. A round yields its accepted tokens and one from the target.

    `steps_per_round` counts runs of the draft model: one per drafted token, and one more where
    drafting was stopped. `standard_error` is that of `tokens_per_round`, over rounds.
    """

    tokens_per_round: float
    standard_error: float
    drafted_per_round: float
    steps_per_round: float
    num_rounds: float

    @property
    def accepted_share(self) -> float:
        """Accepted tokens per drafted token; 0 where nothing was drafted."""
        accepted = self.tokens_per_round - 1
        return accepted / self.drafted_per_round if self.drafted_per_round else 0.0


def exact_acceptance(drafted: NDArray[np.int64], chosen: Sequence[int]) -> Probabilities:
    """1 where a draft agrees with the target's choices so far, else 0, as `[S, k]`.

    Draft `s` `[k]` is held against `chosen[s:]`; tokens beyond its end count as refused.
    """
    num_starts, num_drafted = drafted.shape
    padded = np.full(num_starts + num_drafted, -1, np.int64)
    padded[: len(chosen)] = chosen[: len(padded)]
    targets = np.lib.stride_tricks.sliding_window_view(padded, num_drafted)[:num_starts]
    return np.cumprod(drafted == targets, axis=1).astype(np.float64)


def rejection_acceptance(drafted: Probabilities, target: Sequence[float]) -> Probabilities:
    """min(1, q / p) of the classic rule along a text the target sampled, as `[S, k]`.

    `drafted` `[S, k]` are the draft model's probabilities of the text's own tokens, `target` the
    target's. Of tokens that the rule emits, this share comes from the draft: a token x is emitted
    with probability p(x) and accepted with min(p(x), q(x)).

    Source: Leviathan et al., 2023 (arXiv:2211.17192), algorithm 1.
    """
    num_starts, num_drafted = drafted.shape
    padded = np.full(num_starts + num_drafted, np.inf)
    padded[: len(target)] = target[: len(padded)]
    targets = np.lib.stride_tricks.sliding_window_view(padded, num_drafted)[:num_starts]
    shares: Probabilities = np.minimum(1.0, drafted / targets)
    return shares


def walk_rounds(trials: Sequence[Trial], stop_threshold: float) -> RoundFigures:
    """Expected figures of the rounds that follow each other from the first start of each text.

    Only rounds count that the text could have let run to their full length. The expectation is
    over the rule's own coins, exact: each start has a probability that a round begins there.

    Raises:
        ValueError: not one whole round.
    """
    sums = np.zeros(5)
    for trial in trials:
        sums += _walk_one(trial, stop_threshold)
    num_rounds, num_tokens, num_squares, num_drafted, num_steps = sums
    if num_rounds == 0:
        raise ValueError("expected texts longer than a full draft, got none")
    mean = num_tokens / num_rounds
    variance = max(0.0, num_squares / num_rounds - mean**2)
    return RoundFigures(
        tokens_per_round=float(mean),
        standard_error=float(np.sqrt(variance / num_rounds)),
        drafted_per_round=float(num_drafted / num_rounds),
        steps_per_round=float(num_steps / num_rounds),
        num_rounds=float(num_rounds),
    )


def acceptance_by_position(trials: Sequence[Trial]) -> tuple[float, ...]:
    """Share accepted at each position, given that all before it were, over all starts."""
    if not trials:
        return ()
    reached = np.concatenate([np.cumprod(trial.acceptance, axis=1) for trial in trials]).sum(0)
    num_starts = sum(len(trial.acceptance) for trial in trials)
    before = np.concatenate(([num_starts], reached[:-1]))
    return tuple(float(r / b) if b else 0.0 for r, b in zip(reached, before, strict=True))


def _walk_one(trial: Trial, stop_threshold: float) -> NDArray[np.float64]:
    """Sums over one text's rounds: rounds, tokens, tokens squared, drafted, steps."""
    num_starts, limit = trial.acceptance.shape
    lengths = np.cumprod(trial.confidences >= stop_threshold, axis=1).sum(1)
    begins = np.zeros(num_starts + 1)
    begins[0] = 1.0
    sums = np.zeros(5)
    for start in range(num_starts - limit):
        length, weight = int(lengths[start]), begins[start]
        if weight == 0.0:
            continue
        outcomes = _outcomes(trial.acceptance[start, :length])
        tokens = np.arange(1, length + 2)
        begins[start + 1 : start + length + 2] += weight * outcomes
        steps = min(length + 1, limit)
        sums += weight * np.array([1, outcomes @ tokens, outcomes @ tokens**2, length, steps])
    return sums


def _outcomes(acceptance: Probabilities) -> Probabilities:
    """Probabilities `[k + 1]` that exactly 0, 1, ... k tokens of a draft are accepted."""
    reached = np.concatenate(([1.0], np.cumprod(acceptance)))
    outcomes: Probabilities = reached - np.concatenate((reached[1:], [0.0]))
    return outcomes

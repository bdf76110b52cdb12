import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from adapters.data.rounds import (
    RoundFigures,
    Trial,
    acceptance_by_position,
    exact_acceptance,
    rejection_acceptance,
    walk_rounds,
)
from adapters.draft_cost import DraftCost
from adapters.measuring.threshold import best_threshold, sweep_thresholds, tokens_per_trip

LIMIT = 3
probabilities = st.floats(0, 1, allow_subnormal=False)
trials = st.integers(LIMIT + 1, 12).flatmap(
    lambda num_starts: st.builds(
        Trial,
        acceptance=st_numpy.arrays(np.float64, (num_starts, LIMIT), elements=probabilities),
        confidences=st_numpy.arrays(np.float64, (num_starts, LIMIT), elements=probabilities),
    )
)


def walked_plainly(trial: Trial, threshold: float) -> list[int]:
    """Tokens of each round, taking acceptance of 0 and 1 at its word."""
    start, rounds = 0, []
    while start + LIMIT < len(trial.acceptance):
        accepted = 0
        while (
            accepted < LIMIT
            and trial.confidences[start, accepted] >= threshold
            and trial.acceptance[start, accepted] == 1
        ):
            accepted += 1
        rounds.append(accepted + 1)
        start += accepted + 1
    return rounds


@given(trial=trials, threshold=probabilities)
def test_certain_acceptance_gives_the_rounds_of_a_plain_walk(
    trial: Trial, threshold: float
) -> None:
    certain = Trial(np.round(trial.acceptance), trial.confidences)
    rounds = walked_plainly(certain, threshold)
    figures = walk_rounds([certain], threshold)
    assert figures.num_rounds == pytest.approx(len(rounds))
    assert figures.tokens_per_round == pytest.approx(np.mean(rounds))
    error = np.std(rounds) / np.sqrt(len(rounds))
    assert figures.standard_error == pytest.approx(error, abs=1e-6)


@settings(max_examples=20)
@given(trial=trials.filter(lambda trial: len(trial.acceptance) <= 6), threshold=probabilities)
def test_chances_of_acceptance_give_the_mean_over_all_outcomes(
    trial: Trial, threshold: float
) -> None:
    counted = trial.acceptance[: len(trial.acceptance) - LIMIT]
    num_rounds = num_tokens = 0.0
    for coins in itertools.product((0.0, 1.0), repeat=counted.size):
        outcome = np.array(coins).reshape(counted.shape)
        weight = float(np.prod(np.where(outcome == 1, counted, 1 - counted)))
        padded = np.concatenate([outcome, np.zeros((LIMIT, LIMIT))])
        rounds = walked_plainly(Trial(padded, trial.confidences), threshold)
        num_rounds += weight * len(rounds)
        num_tokens += weight * sum(rounds)
    figures = walk_rounds([trial], threshold)
    assert figures.num_rounds == pytest.approx(num_rounds)
    assert figures.tokens_per_round == pytest.approx(num_tokens / num_rounds)


@given(trial=trials)
def test_a_higher_threshold_never_drafts_more_from_a_start(trial: Trial) -> None:
    one_start = Trial(trial.acceptance[: LIMIT + 1], trial.confidences[: LIMIT + 1])
    drafted = [walk_rounds([one_start], x / 4).drafted_per_round for x in range(5)]
    assert drafted == sorted(drafted, reverse=True)


def test_steps_count_the_one_that_finds_the_low_confidence() -> None:
    trial = Trial(np.ones((6, 3)), np.array([[0.9, 0.2, 0.9]] * 6))
    assert walk_rounds([trial], 0.5).drafted_per_round == 1
    assert walk_rounds([trial], 0.5).steps_per_round == 2
    assert walk_rounds([trial], 0.0).steps_per_round == 3


def test_texts_shorter_than_a_full_round_are_refused() -> None:
    with pytest.raises(ValueError, match="longer than a full draft"):
        walk_rounds([Trial(np.ones((3, 3)), np.ones((3, 3)))], 0.0)


def test_a_draft_agrees_up_to_its_first_wrong_token_and_not_beyond_the_text() -> None:
    drafted = np.array([[5, 6, 7], [6, 9, 8], [7, 8, 1]])
    np.testing.assert_array_equal(
        exact_acceptance(drafted, [5, 6, 7, 8]), [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    )


def test_the_rejection_rule_keeps_what_the_draft_gave_of_the_targets_probability() -> None:
    shares = rejection_acceptance(np.array([[0.3, 0.5], [0.1, 0.4]]), [0.6, 0.25])
    np.testing.assert_allclose(shares, [[0.5, 1.0], [0.4, 0.0]])


def test_acceptance_by_position_is_given_that_all_before_was_accepted() -> None:
    certain = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert acceptance_by_position([Trial(certain, np.ones((4, 2)))]) == (0.5, 0.5)


def test_free_drafting_is_best_without_a_stop_and_dear_drafting_with_a_high_one() -> None:
    confidences = np.tile([0.95, 0.45, 0.05], (40, 1))
    trial = Trial(np.tile([0.9, 0.3, 0.1], (40, 1)), confidences)
    free, dear = DraftCost(step=0.0, row=0.0), DraftCost(step=0.5, row=0.5)
    assert best_threshold(sweep_thresholds([trial], free)).threshold == 0.0
    assert best_threshold(sweep_thresholds([trial], dear)).threshold > 0.45


def test_a_round_costs_its_trip_its_steps_and_its_rows() -> None:
    figures = RoundFigures(3.0, 0.0, 2.0, 3.0, 10.0)
    assert tokens_per_trip(figures, DraftCost(step=0.1, row=0.1)) == pytest.approx(3.0 / 1.5)

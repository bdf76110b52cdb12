"""When to stop drafting: the threshold with the best predicted rate, for a stated cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from adapters.data.rounds import RoundFigures, Trial, walk_rounds
from adapters.draft_cost import DraftCost

# Fine where weak drafters live (measured best: 0.2 to 0.4), up to the paper's 0.6 and beyond.
THRESHOLDS = (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class ThresholdFigures:
    """What one threshold gives; `tokens_per_trip` is tokens per verification round trip's time."""

    threshold: float
    figures: RoundFigures
    tokens_per_trip: float


def tokens_per_trip(figures: RoundFigures, cost: DraftCost) -> float:
    """Predicted tokens in the time of one verification round trip without a draft.

    A round takes that trip, its draft steps and its further rows, one after the other. Divide by
    the seconds of a trip for tokens per second.
    """
    round_trips = 1 + cost.step * figures.steps_per_round + cost.row * figures.drafted_per_round
    return figures.tokens_per_round / round_trips


def sweep_thresholds(
    trials: Sequence[Trial], cost: DraftCost, thresholds: Sequence[float] = THRESHOLDS
) -> tuple[ThresholdFigures, ...]:
    """The figures of every threshold over the same drafts.

    Raises:
        ValueError: the texts are too short for one whole round.
    """
    swept = []
    for threshold in thresholds:
        figures = walk_rounds(trials, threshold)
        swept.append(ThresholdFigures(threshold, figures, tokens_per_trip(figures, cost)))
    return tuple(swept)


def best_threshold(swept: Sequence[ThresholdFigures]) -> ThresholdFigures:
    """The one with the best predicted rate; the lowest of equals."""
    return max(swept, key=lambda one: (one.tokens_per_trip, -one.threshold))

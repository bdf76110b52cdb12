"""When two models say the same: ids, log probabilities, and distributions of short texts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

TIE_MARGIN = 1e-4
"""Below this distance of the unsplit model's own top two logits a first difference is a tie."""

MAX_LOGPROB_ERROR = 1e-2
"""Far above what another order of float32 additions does, and far below what a wrong weight does.

The model in the repository stays below 1e-5.
"""

NOISE_QUANTILE = 0.999
_NUM_PAIRS = 4000

Text = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Continuation:
    """Greedy ids, and the log probability of each before any change by sampling parameters."""

    ids: Text
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Reference(Continuation):
    """The unsplit model's continuation; `margins` say how clear each choice was, in logits."""

    margins: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where two continuations part. None as a token: the text had ended."""

    index: int
    expected: int | None
    came: int | None
    margin: float

    @property
    def is_tie(self) -> bool:
        """Whether the unsplit model itself could not tell the two tokens apart."""
        return self.margin < TIE_MARGIN


@dataclass(frozen=True, slots=True)
class Distances:
    """Total variations between runs of so many draws."""

    num_draws: int
    split: float
    """Between a run of the split model and one of the unsplit model."""
    unsplit: float
    """Between two runs of the unsplit model."""
    noise_floor: float
    """What those stay below, but for one pair in a thousand."""

    @property
    def are_alike(self) -> bool:
        """Whether the split model is as close as another run of the unsplit one would be."""
        return self.split <= self.noise_floor


def first_difference(reference: Reference, ids: Sequence[int]) -> Difference | None:
    """Where `ids` first differ from the reference, or None when they are the same.

    A text that ends earlier or later than the reference has an infinite margin there.
    """
    expected = reference.ids
    for index, (right, came) in enumerate(zip(expected, ids, strict=False)):
        if right != came:
            return Difference(index, right, came, reference.margins[index])
    if len(expected) == len(ids):
        return None
    end = min(len(expected), len(ids))
    right_end = expected[end] if end < len(expected) else None
    came_end = ids[end] if end < len(ids) else None
    return Difference(end, right_end, came_end, float("inf"))


def logprob_errors(reference: Reference, came: Continuation) -> list[float]:
    """How far the tokens' log probabilities are apart, one by one, while the ids are the same."""
    difference = first_difference(reference, came.ids)
    num_same = len(came.ids) if difference is None else difference.index
    both = zip(reference.logprobs[:num_same], came.logprobs, strict=False)
    return [abs(expected - got) for expected, got in both]


def distances(
    target: Mapping[Text, float], draws: Counter[Text], generator: np.random.Generator
) -> Distances:
    """How far drawn texts are from the unsplit model's, beside how far two of its runs are apart.

    Args:
        target: The probability of every text that the unsplit model can say.
        draws: How often the split model said each text; texts outside `target` count as wrong.
        generator: Draws the unsplit runs.
    """
    num_draws = draws.total()
    probabilities = np.array(list(target.values()))
    probabilities /= probabilities.sum()
    pairs = generator.multinomial(num_draws, probabilities, size=(_NUM_PAIRS, 2))
    apart = np.abs(pairs[:, 0] - pairs[:, 1]).sum(axis=1) / (2 * num_draws)
    said = np.array([draws[text] for text in target])
    # What the target never says is a distance of its own.
    num_others = num_draws - said.sum()
    split = (np.abs(said - pairs[0, 0]).sum() + num_others) / (2 * num_draws)
    floor = float(np.quantile(apart, NOISE_QUANTILE))
    return Distances(num_draws, float(split), float(apart[0]), floor)

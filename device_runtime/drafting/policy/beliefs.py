"""What is believed of guesses and steps, by what became of earlier ones of their class.

A guess is told by its evidence, a step's token by how clear its choice was. Beliefs of one kind of
sampling are learnt over all texts; each text begins with them and soon goes its own way.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from device_runtime.drafting.policy.chances import Chance, Shares
from device_runtime.drafting.policy.pace import Pace

CONFIDENCES = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97)
"""Bounds of the classes of a step's confidence."""


NO_TOKEN = len(CONFIDENCES) + 1
"""The class of a step that had no token to offer."""

_STEP_PRIORS = tuple(
    0.8 * (low + high) / 2
    for low, high in zip((0.0, *CONFIDENCES), (*CONFIDENCES, 1.0), strict=True)
)
"""A drafter is about as often right as it is sure, and flatters itself a little."""

_PRIOR_WEIGHT = 8.0
"""So many cases the chances weigh that a class begins with."""

_CLASSES_WEIGHT = 4.0
"""So many cases it weighs that at first all classes are believed to come alike."""

_PENALISED = 0.5
"""The share that a guess's chance is believed to keep where its token is penalised."""

_STEP_FADING, _MOST_STEPS_INHERITED = 0.97, 12.0
"""Steps differ less from text to text than guesses do: about the last 33 of a text count."""


def step_class(confidence: float) -> int:
    """The class of a step whose choice was so clear."""
    return bisect_right(CONFIDENCES, confidence)


class Beliefs:
    """Of one kind of sampling, over all texts; `evidence_chances` are those that guesses come with.

    Guesses whose token is penalised are as many classes of their own behind them.
    """

    def __init__(self, evidence_chances: Sequence[float]) -> None:
        penalised = [_PENALISED * chance for chance in evidence_chances]
        self.guesses = [Chance(chance, _PRIOR_WEIGHT) for chance in (*evidence_chances, *penalised)]
        self.steps = [Chance(chance, _PRIOR_WEIGHT) for chance in _STEP_PRIORS]
        self.classes = Shares([_CLASSES_WEIGHT / (NO_TOKEN + 1)] * (NO_TOKEN + 1))
        """How often a step is of which class."""
        self.pace = Pace()


@dataclass(frozen=True, slots=True)
class Chances:
    """Beliefs as they are when a draft begins.

    `guesses` by evidence; `steps` by class, and `shares`, how often each comes. A step that offers
    nothing is of the last class, whose chance is 0.
    """

    guesses: Sequence[float]
    steps: Sequence[float]
    shares: Sequence[float]


class TextBeliefs:
    """Of one text, which teach those of all."""

    def __init__(self, common: Beliefs) -> None:
        self._common = common
        self._guesses: dict[int, Chance] = {}
        self._steps: dict[int, Chance] = {}
        self._classes = common.classes.for_one_text(_STEP_FADING, _MOST_STEPS_INHERITED)
        self._guess_values = [chance.value for chance in common.guesses]
        self._step_values = [*(chance.value for chance in common.steps), 0.0]

    def chances(self) -> Chances:
        """As they are now."""
        return Chances(tuple(self._guess_values), tuple(self._step_values), self._classes.values())

    def on_guess(self, evidence: int, is_right: bool) -> None:
        """Take whether a guess was right, sent or not, where all before it were."""
        common, own = self._common.guesses[evidence], self._guesses.get(evidence)
        common.learn(is_right)
        if own is None:
            own = self._guesses[evidence] = common.for_one_text()
        else:
            own.learn(is_right)
        self._guess_values[evidence] = own.value

    def on_step(self, step_class: int, is_right: bool) -> None:
        """Take whether a step's token was right, sent or not, where all before it were."""
        common, own = self._common.steps[step_class], self._steps.get(step_class)
        common.learn(is_right)
        if own is None:
            own = common.for_one_text(_STEP_FADING, _MOST_STEPS_INHERITED)
            self._steps[step_class] = own
        else:
            own.learn(is_right)
        self._step_values[step_class] = own.value

    def on_class(self, step_class: int) -> None:
        """Take of which class a step was."""
        self._common.classes.learn(step_class)
        self._classes.learn(step_class)

"""What a runtime has learnt of its drafters; the next text begins with it."""

from collections.abc import Sequence

from device_runtime.drafting.policy.allowance import Allowance
from device_runtime.drafting.policy.beliefs import Beliefs
from device_runtime.drafting.policy.costs import RoundCosts
from device_runtime.drafting.policy.kind import SamplingKind


class Lessons:
    """`evidence_chances` are those that guesses come with, by evidence."""

    def __init__(self, evidence_chances: Sequence[float]) -> None:
        self._evidence_chances = tuple(evidence_chances)
        self._beliefs: dict[SamplingKind, Beliefs] = {}
        self.costs = RoundCosts()
        self.allowance = Allowance()

    @property
    def num_evidences(self) -> int:
        """Classes that guesses come in."""
        return len(self._evidence_chances)

    def of(self, kind: SamplingKind) -> Beliefs:
        """What is believed under this kind of sampling."""
        return self._beliefs.setdefault(kind, Beliefs(self._evidence_chances))

"""Chance on a link: where it comes from, and the bursts in which a link loses packets."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

Draw = Callable[[], float]
"""Evenly distributed numbers from 0 (with) to 1 (without)."""


@dataclass(frozen=True, slots=True)
class Luck:
    """One direction's numbers. Each trouble has its own, so that none changes another's luck."""

    packet: Draw
    """Two per packet sent, of loss and jitter, if there is either."""
    burst: Draw
    """One per state of a channel that loses in bursts."""
    order: Draw
    """One per packet that arrives, if packets are overtaken."""

    @classmethod
    def seeded(cls, seed: str) -> "Luck":
        """The same for the same text; a text, since neighbouring integers may begin alike."""
        return cls(*(random.Random(seed + what).random for what in ("", " burst", " order")))


class Bursts:
    """A Gilbert-Elliott channel in time: good and bad states in turn, each exponentially long.

    What is sent does not change when bursts come. (Where states change with packets instead, the
    one segment that TCP sends again after a silence meets the same burst each time.)

    Args:
        burst_s: How long a bad state lasts on average, more than 0.
        share: Of time in a bad state, more than 0 and less than 1.
    """

    def __init__(self, burst_s: float, share: float, draw: Draw) -> None:
        self._mean_s = {True: burst_s, False: burst_s * (1 - share) / share}
        self._draw = draw
        self._is_bad = draw() < share
        self._until_s = self._length_s()

    def is_bad(self, now_s: float) -> bool:
        """Whether all is lost at this moment; moments never go back."""
        while self._until_s <= now_s:
            self._is_bad = not self._is_bad
            self._until_s += self._length_s()
        return self._is_bad

    def _length_s(self) -> float:
        return -self._mean_s[self._is_bad] * math.log(1 - self._draw())

"""The rules by which answers are written, and drafts made: the likeliest token, or one sampled."""

import numpy as np
from numpy.typing import NDArray

from adapters.data.choosing import Choice, Coupled, greedy
from device_runtime.sampling.noise import PositionNoise

GREEDY, SAMPLED = "greedy", "sampled"
RULES = (GREEDY, SAMPLED)
"""Sampled: at temperature 1, with no filters."""


def choice_of(rule: str, seed: int) -> Choice:
    """The choice by one of `RULES`, as the device makes it; the seed is that of a request."""
    noise = PositionNoise(seed)

    def draws(position: int, num_tokens: int) -> NDArray[np.float64]:
        return noise(position, np.arange(num_tokens, dtype=np.int64))

    return Coupled(draws) if rule == SAMPLED else greedy

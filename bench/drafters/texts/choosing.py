"""The project's one rule of choice, over many rows at once: the likeliest token, or one sampled."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from device_runtime.sampling.noise import PositionNoise

GREEDY, SAMPLED = "greedy", "sampled"
RULES = (GREEDY, SAMPLED)
"""Sampled: at temperature 1, with no filters."""


class Choice(Protocol):
    """How one generation's tokens are chosen, by target and draft model alike."""

    def __call__(
        self, positions: Tensor, logits: Tensor, vocabulary: Tensor | None = None
    ) -> Tensor:
        """Token ids `[N]` for positions `[N]` from logits `[N, V]`.

        Logits of a part of the vocabulary come with its ids `[V]`, ascending.
        """
        ...


def choice_of(rule: str, seed: int) -> Choice:
    """The choice by one of `RULES`; the seed is that of a request."""
    return _Sampled(seed) if rule == SAMPLED else _greedy


def _greedy(positions: Tensor, logits: Tensor, vocabulary: Tensor | None = None) -> Tensor:
    return _named(logits.argmax(-1), vocabulary)


class _Sampled:
    """`argmin E / p` with the unit exponentials E of seed and position, as the device samples.

    In logarithms that is `argmax logit - log E`. The noise of a position is made once and kept.
    """

    def __init__(self, seed: int) -> None:
        self._noise = PositionNoise(seed)
        self._kept: dict[int, Tensor] = {}

    def __call__(
        self, positions: Tensor, logits: Tensor, vocabulary: Tensor | None = None
    ) -> Tensor:
        size = logits.shape[-1] if vocabulary is None else int(vocabulary[-1]) + 1
        noise = torch.stack([self._log_noise(position, size) for position in positions.tolist()])
        if vocabulary is not None:
            noise = noise[:, vocabulary]
        return _named((logits.double() - noise).argmax(-1), vocabulary)

    def _log_noise(self, position: int, size: int) -> Tensor:
        kept = self._kept.get(position)
        if kept is None or len(kept) < size:
            draws = self._noise(position, np.arange(size, dtype=np.int64))
            kept = self._kept[position] = torch.from_numpy(np.log(draws))
        return kept[:size]


def _named(places: Tensor, vocabulary: Tensor | None) -> Tensor:
    return places if vocabulary is None else vocabulary[places]

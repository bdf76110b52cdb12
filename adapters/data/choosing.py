"""How tokens are chosen, by target and draft model alike, for many rows at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Choice(Protocol):
    """How one generation's tokens are chosen."""

    def __call__(
        self, positions: Tensor, logits: Tensor, vocabulary: Tensor | None = None
    ) -> Tensor:
        """Token ids `[N]` for positions `[N]` from logits `[N, V]`.

        Logits of a part of the vocabulary come with its ids `[V]`, ascending.
        """
        ...


def greedy(positions: Tensor, logits: Tensor, vocabulary: Tensor | None = None) -> Tensor:
    """The likeliest tokens."""
    return _named(logits.argmax(-1), vocabulary)


Draws = Callable[[int, int], NDArray[np.float64]]
"""Position and number of tokens, to a unit exponential for each token; more begin with the same."""


def philox(seed: int) -> Draws:
    """Draws that are a function of seed and position alone."""

    def draws(position: int, num_tokens: int) -> NDArray[np.float64]:
        generator = np.random.Generator(np.random.Philox([seed, position]))
        return generator.standard_exponential(num_tokens)

    return draws


class Coupled:
    """A sampled token at temperature 1, with noise that depends on the position alone.

    Draft and target choose argmin E / p with the same unit exponentials E, the rule by which the
    device samples; in logarithms, argmax logit - log E. The noise of a position is made once and
    kept. Source: Daliri et al., 2024 (arXiv:2408.07978).
    """

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self._kept: dict[int, Tensor] = {}

    def __call__(
        self, positions: Tensor, logits: Tensor, vocabulary: Tensor | None = None
    ) -> Tensor:
        size = logits.shape[-1] if vocabulary is None else int(vocabulary[-1]) + 1
        noise = torch.stack([self._log_noise(position, size) for position in positions.tolist()])
        if vocabulary is not None:
            noise = noise[:, vocabulary.cpu()]
        places = (logits.cpu().double() - noise).argmax(-1)
        return _named(places.to(logits.device), vocabulary)

    def _log_noise(self, position: int, size: int) -> Tensor:
        kept = self._kept.get(position)
        if kept is None or len(kept) < size:
            kept = self._kept[position] = torch.from_numpy(np.log(self._draws(position, size)))
        return kept[:size]


@dataclass(frozen=True, slots=True)
class Forced:
    """The tokens that a given text has at the positions."""

    token_ids: Sequence[int]

    def __call__(
        self, positions: Tensor, logits: Tensor, vocabulary: Tensor | None = None
    ) -> Tensor:
        chosen = [self.token_ids[position] for position in positions.tolist()]
        return torch.tensor(chosen, device=logits.device)


def _named(places: Tensor, vocabulary: Tensor | None) -> Tensor:
    return places if vocabulary is None else vocabulary[places]

"""What a token is chosen by: scores of all tokens, as the device's sampler makes them.

Greedy they are the logits; sampled, logits at temperature 1 with the position's noise. Under a
repetition penalty the logits of tokens that were there before are changed first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.drafters.texts.choosing import SAMPLED
from device_runtime.sampling.noise import PositionNoise


@dataclass(frozen=True, slots=True)
class Manner:
    """How one answer is chosen; `seed` is that of a request, `repetition_penalty` 1 is none."""

    rule: str
    seed: int
    repetition_penalty: float = 1.0


class Scores:
    """Scores `[N, V]` of one generation's tokens; the largest is chosen."""

    def __init__(self, manner: Manner) -> None:
        self._penalty = manner.repetition_penalty
        self._noise = PositionNoise(manner.seed) if manner.rule == SAMPLED else None
        self._kept: dict[int, Tensor] = {}

    def __call__(
        self,
        positions: Tensor,
        logits: Tensor,
        before: Sequence[Sequence[int]],
        vocabulary: Tensor | None = None,
    ) -> Tensor:
        """For positions `[N]`, from logits `[N, V]` and all tokens before each.

        Logits of a part of the vocabulary come with its ids `[V]`, ascending.
        """
        scores = logits.double().clone()
        if self._penalty != 1.0:
            for row, token_ids in zip(scores, before, strict=True):
                places = _places(token_ids, row.shape[0], vocabulary)
                values = row[places]
                row[places] = torch.where(
                    values > 0, values / self._penalty, values * self._penalty
                )
        if self._noise is None:
            return scores
        size = scores.shape[-1] if vocabulary is None else int(vocabulary[-1]) + 1
        noise = torch.stack([self._log_noise(position, size) for position in positions.tolist()])
        return scores - (noise if vocabulary is None else noise[:, vocabulary])

    def _log_noise(self, position: int, size: int) -> Tensor:
        kept = self._kept.get(position)
        if kept is None or len(kept) < size:
            assert self._noise is not None, "sampled"
            draws = self._noise(position, np.arange(size, dtype=np.int64))
            kept = self._kept[position] = torch.from_numpy(np.log(draws))
        return kept[:size]


class Writer:
    """The choice by which the target writes one answer, token after token."""

    def __init__(self, manner: Manner, prompt_ids: Sequence[int]) -> None:
        self._scores = Scores(manner)
        self._text = [*prompt_ids]

    def __call__(
        self, positions: Tensor, logits: Tensor, vocabulary: Tensor | None = None
    ) -> Tensor:
        chosen = self._scores(positions, logits, [self._text], vocabulary).argmax(-1)
        self._text.append(int(chosen))
        return chosen


def _places(token_ids: Sequence[int], size: int, vocabulary: Tensor | None) -> Tensor:
    """Where tokens are among the logits, each once."""
    ids = torch.tensor(sorted(set(token_ids)), dtype=torch.long)
    if vocabulary is None:
        return ids
    places = torch.searchsorted(vocabulary, ids).clamp(max=size - 1)
    return places[vocabulary[places] == ids]

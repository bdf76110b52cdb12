"""A map from rows to tokens, learnt from known pairs; it needs no weights of the device's layers.

Ridge regression from rows onto embeddings of the tokens, in closed form: the same pairs give the
same map. The embeddings serve as codes of tokens, so that tokens that no pair showed can be
guessed too; any public model's do.

Source: Morris et al., 2023 (arXiv:2310.06816) for learning from pairs; linear as a lower bound.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import normalize

_RIDGES: Final = (1e-4, 1e-2, 1.0)
"""Of a feature's variance; the one that comes nearest to held-out pairs is taken."""
_HELD_OUT: Final = 8
"""One pair of so many, the last ones."""
_ROWS_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class Inverter:
    """The map, ready to guess."""

    mean: Tensor
    deviation: Tensor
    """Both `[H]`, of rows that were scaled to length 1."""
    weight: Tensor
    """`[H, E]`."""
    codes: Tensor
    """`[V, E]`, of every token, with length 1."""
    centre: Tensor
    """`[E]`: the mean code of the pairs."""

    def codes_of(self, rows: Tensor) -> Tensor:
        """Codes `[T, E]` that rows `[T, H]` point to."""
        features = (normalize(rows, dim=-1) - self.mean) / self.deviation
        return features @ self.weight + self.centre

    def scores(self, rows: Tensor) -> Tensor:
        """How well each token fits rows `[T, H]`, `[T, V]`."""
        return normalize(self.codes_of(rows), dim=-1) @ self.codes.T

    def guess(self, rows: Tensor) -> Tensor:
        """Token ids `[T]`."""
        return torch.cat(
            [self.scores(part).argmax(-1) for part in torch.split(rows, _ROWS_AT_ONCE)]
        )


def fit_inverter(rows: Tensor, token_ids: Tensor, table: Tensor) -> Inverter:
    """Learn from rows `[n, H]` and their tokens `[n]`; `table` `[V, E]` is any model's embedding.

    Raises:
        ValueError: fewer than 16 pairs.
    """
    if len(rows) < 2 * _HELD_OUT:
        raise ValueError(f"expected {2 * _HELD_OUT} or more pairs, got {len(rows)}")
    codes = normalize(table, dim=-1)
    num_fitted = len(rows) - len(rows) // _HELD_OUT
    trials = _fitted(rows[:num_fitted], token_ids[:num_fitted], codes)
    held_rows, wanted = rows[num_fitted:], codes[token_ids[num_fitted:]]
    errors = [float((trial.codes_of(held_rows) - wanted).square().mean()) for trial in trials]
    return _fitted(rows, token_ids, codes)[errors.index(min(errors))]


def _fitted(rows: Tensor, token_ids: Tensor, codes: Tensor) -> list[Inverter]:
    """An inverter for each ridge."""
    unit = normalize(rows, dim=-1)
    mean, deviation = unit.mean(0), unit.std(0).clamp_min(1e-6)
    features = ((unit - mean) / deviation).double()
    wanted = codes[token_ids]
    centre = wanted.mean(0)
    gram = features.T @ features
    cross = features.T @ (wanted - centre).double()
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weights = [torch.linalg.solve(gram + ridge * len(rows) * eye, cross) for ridge in _RIDGES]
    return [Inverter(mean, deviation, weight.float(), codes, centre) for weight in weights]

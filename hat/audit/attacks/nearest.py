"""The token whose embedding points most nearly as a row does."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

_ROWS_AT_ONCE = 64


def nearest_scores(rows: Tensor, table: Tensor) -> Tensor:
    """Cosines `[T, V]` of rows `[T, H]` with a table's rows `[V, H]`."""
    return normalize(rows, dim=-1) @ normalize(table, dim=-1).T


def nearest(rows: Tensor, table: Tensor) -> Tensor:
    """Token ids `[T]` of the largest cosines."""
    unit = normalize(table, dim=-1)
    parts = [
        (normalize(part, dim=-1) @ unit.T).argmax(-1) for part in torch.split(rows, _ROWS_AT_ONCE)
    ]
    return torch.cat(parts)

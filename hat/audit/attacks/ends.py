"""The layers below a row, as somebody has them."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from submodels.bundle.layers import DecoderLayer


@dataclass(frozen=True, slots=True)
class Ends:
    """Embedding `[V, H]`, as rows enter the first layer, and the layers on it."""

    table: Tensor
    layers: Sequence[DecoderLayer]

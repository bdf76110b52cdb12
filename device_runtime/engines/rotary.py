"""Cosines and sines of the rotary embedding, as the attention operator reads them."""

import numpy as np
from numpy.typing import NDArray

from submodels.manifest import Rope

Angles = NDArray[np.float32]


class RotaryTables:
    """Tables for positions `[0, n)`, made when a sequence first needs n of them.

    A cache capacity asks for one table, and capacities are few: together the tables take at
    most 4/3 of the largest.
    """

    def __init__(self, rope: Rope, max_positions: int) -> None:
        self.max_positions = max_positions
        self._rope = rope
        self._tables: dict[tuple[int, int], tuple[Angles, Angles]] = {}

    def up_to(self, num_positions: int, width: int) -> tuple[Angles, Angles]:
        """cos and sin `[num_positions, width]`."""
        key = num_positions, width
        if key not in self._tables:
            self._tables[key] = rotary_tables(self._rope, num_positions, width)
        return self._tables[key]


def rotary_tables(rope: Rope, num_positions: int, width: int) -> tuple[Angles, Angles]:
    """cos and sin `[num_positions, width]` of positions from 0 on.

    Angles are rounded to float32 before the cosine, as in transformers: far out in a long
    context a more exact angle would be a different one. Columns beyond the frequencies belong
    to padding, where heads are zero.
    """
    frequencies = np.zeros(width, np.float32)
    frequencies[: len(rope.inv_freq)] = rope.inv_freq
    angles = np.arange(num_positions, dtype=np.float32)[:, None] * frequencies
    scaling = np.float32(rope.attention_scaling)
    return np.cos(angles) * scaling, np.sin(angles) * scaling

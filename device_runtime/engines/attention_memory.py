"""What attention reads in place: a sequence's keys and values, and the angles of all positions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from submodels.manifest import Rope

Angles = NDArray[np.float32]

# The first step holds a short chat; four times more each step keeps copies rare and the waste
# of a long sequence below three quarters of what it asked for.
_FIRST_CAPACITY = 256
_GROWTH = 4


@dataclass(frozen=True, slots=True)
class KvShape:
    """The buffers of a stack of layers; no sequence needs more than `max_tokens` positions.

    `layers` says of each how many heads it has, and of what size.
    """

    layers: tuple[tuple[int, int], ...]
    max_tokens: int

    @property
    def num_layers(self) -> int:
        """How many layers the stack has."""
        return len(self.layers)

    def capacity_for(self, num_tokens: int) -> int:
        """The smallest step that holds `num_tokens` positions."""
        capacity = _FIRST_CAPACITY
        while capacity < num_tokens:
            capacity *= _GROWTH
        return min(capacity, self.max_tokens)


class KvBuffers:
    """Keys and values of one sequence, float32 `[1, heads, capacity, head_dim]` each.

    They grow in steps. `arrays` holds key and value of layer 0, then of layer 1, and so on.
    Truncation is a smaller `num_tokens`: what lies behind it is never read. Freed memory goes back
    to the system with the last reference.
    """

    def __init__(self, shape: KvShape) -> None:
        self.shape = shape
        self.num_tokens = 0
        self.capacity = shape.capacity_for(0)
        self.arrays = [self._empty(index) for index in range(2 * shape.num_layers)]

    def reserve(self, num_kept: int, num_tokens: int) -> bool:
        """Forget positions from `num_kept` on, and make room for `num_tokens` in all.

        Returns:
            Whether the buffers moved: `arrays` holds new memory.
        """
        self.num_tokens = num_kept
        if num_tokens <= self.capacity:
            return False
        self.capacity = self.shape.capacity_for(num_tokens)
        for index, old in enumerate(self.arrays):
            self.arrays[index] = self._empty(index)
            self.arrays[index][:, :, :num_kept] = old[:, :, :num_kept]
        return True

    def fork(self, num_tokens: int) -> "KvBuffers":
        """A copy of the first `num_tokens` positions."""
        copy = KvBuffers(self.shape)
        copy.reserve(0, num_tokens)
        for source, target in zip(self.arrays, copy.arrays, strict=True):
            target[:, :, :num_tokens] = source[:, :, :num_tokens]
        copy.num_tokens = num_tokens
        return copy

    def _empty(self, index: int) -> NDArray[np.float32]:
        """New memory for the array of this number."""
        num_heads, head_dim = self.shape.layers[index // 2]
        return np.zeros((1, num_heads, self.capacity, head_dim), np.float32)


class RotaryTables:
    """Cosines and sines of positions `[0, n)`, made when a sequence first needs n of them.

    A cache capacity asks for one table, and capacities are few: together the tables take at
    most 4/3 of the largest, for each rotary embedding of the model.
    """

    def __init__(self, ropes: Sequence[Rope], max_positions: int) -> None:
        self.max_positions = max_positions
        self._ropes = ropes
        self._tables: dict[tuple[int, int, int], tuple[Angles, Angles]] = {}

    def up_to(self, num_positions: int, width: int, rope: int = 0) -> tuple[Angles, Angles]:
        """cos and sin `[num_positions, width]`."""
        key = num_positions, width, rope
        if key not in self._tables:
            self._tables[key] = rotary_tables(self._ropes[rope], num_positions, width)
        return self._tables[key]


def rotary_tables(rope: Rope, num_positions: int, width: int) -> tuple[Angles, Angles]:
    """cos and sin `[num_positions, width]` of positions from 0 on.

    Angles are rounded to float32 before the cosine, as in transformers: far out in a long
    context a more exact angle would be a different one. Columns beyond the frequencies belong
    to padding, where heads are zero, or to what is not turned.
    """
    frequencies = np.zeros(width, np.float32)
    frequencies[: len(rope.inv_freq)] = rope.inv_freq
    angles = np.arange(num_positions, dtype=np.float32)[:, None] * frequencies
    scales = np.ones(width, np.float32)
    scales[: len(rope.inv_freq)] = rope.attention_scaling
    return np.cos(angles) * scales, np.sin(angles) * scales

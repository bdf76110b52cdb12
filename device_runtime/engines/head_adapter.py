"""The state of a published EAGLE head: fed like our own adapter, but with what its authors took.

Such a head knows no position without a feature, and never learned what to do there. So positions of
which none came down (most of a prompt's) are left out of its cache; those that are there follow
each other, since rotary positions tell distances alone.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from device_runtime.engines.engine import Rows, StackCache
from device_runtime.engines.fed_adapter import FedAdapter

# Rows that a reply may still be told of: far more than a draft, and a few chunks of a prompt.
_MAX_SHALLOW_ROWS = 2048

Features = Callable[[Rows], Rows]
"""Features `[T, H]` of rows `[T, n H]` of the model: of n depths side by side, lowest first."""


class SparseCache:
    """A `StackCache` for rows `[T, 2 H + 1]` that holds only those whose last number is not 0.

    The others have estimates of zeros, which no head is sure of.
    """

    def __init__(self, cache: StackCache) -> None:
        self._cache = cache
        self._held: list[int] = []
        """The positions that the cache below holds, ascending."""
        self._num_tokens = 0

    @property
    def num_tokens(self) -> int:
        """Positions held or left out; setting a smaller number is the truncation."""
        return self._num_tokens

    @num_tokens.setter
    def num_tokens(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        num_held = bisect_left(self._held, num_tokens)
        if num_held < len(self._held):
            del self._held[num_held:]
            self._cache.num_tokens = num_held

    def run(self, rows: Rows, position: int) -> Rows:
        self.num_tokens = position
        is_known = rows[:, -1] > 0
        estimates = np.zeros((len(rows), rows.shape[1] // 2), np.float32)
        if is_known.any():
            estimates[is_known] = self._cache.run(rows[is_known], len(self._held))
            self._held.extend((position + np.flatnonzero(is_known)).tolist())
        self._num_tokens = position + len(rows)
        return estimates

    def fork(self, num_tokens: int) -> "SparseCache":
        num_held = bisect_left(self._held, num_tokens)
        copy = SparseCache(self._cache.fork(num_held))
        copy._held = self._held[:num_held]
        copy._num_tokens = num_tokens
        return copy


@dataclass(frozen=True, slots=True)
class HeadReads:
    """What features are made of: rows that leave the last layer, or `taps` and perhaps more."""

    taps: int = 0
    """Depths between two of the cloud's layers, as a bit set; 0: the last layer's rows instead."""
    shallow: bool = False
    """Whether the rows that the device sends up stand before the taps, as their lowest depth."""


class HeadAdapter:
    """An `AdapterState`; its rows are embeddings, and it estimates features.

    Embeddings come with their shallow rows beside them, `[T, 2 H]`.
    """

    def __init__(self, fed: FedAdapter, features: Features, reads: HeadReads) -> None:
        self._fed = fed
        self._features = features
        self._reads = reads
        self._shallow: deque[Rows] = deque(maxlen=_MAX_SHALLOW_ROWS)
        """Of the last positions, where they are read."""

    @property
    def num_tokens(self) -> int:
        return self._fed.num_tokens

    def truncate(self, num_tokens: int) -> None:
        for _ in range(min(self._fed.num_tokens - num_tokens, len(self._shallow))):
            self._shallow.pop()
        self._fed.truncate(num_tokens)

    def add(self, rows: Rows) -> None:
        hidden_size = rows.shape[1] // 2
        self._fed.add(rows[:, :hidden_size])
        if self._reads.shallow:
            self._shallow.extend(row.copy() for row in rows[:, hidden_size:])

    def learn(self, deep: Rows, position: int) -> None:
        if not self._reads.taps:
            self._fed.learn(self._features(deep), position)

    def learn_taps(self, taps: Rows, position: int) -> None:
        """Take the model's rows `[T, n, H]` of the depths that the head reads, at `position`."""
        end = min(position + len(taps), self.num_tokens)
        if self._reads.shallow:
            first = self.num_tokens - len(self._shallow)
            begin = max(position, first)
            if begin >= end:
                return
            shallow = np.stack([self._shallow[at - first] for at in range(begin, end)])
            taps = np.concatenate((shallow[:, None], taps[begin - position : end - position]), 1)
            position = begin
        self._fed.learn(self._features(taps.reshape(len(taps), -1)), position)

    def estimate(self, rows: Rows, position: int) -> Rows:
        return self._fed.estimate(rows, position)

    def prepare(self, num_rows: int) -> bool:
        return self._fed.prepare(num_rows)

    def fork(self, num_tokens: int) -> "HeadAdapter":
        copy = HeadAdapter(self._fed.fork(num_tokens), self._features, self._reads)
        copy._shallow.extend(self._shallow)
        for _ in range(min(self.num_tokens - num_tokens, len(copy._shallow))):
            copy._shallow.pop()
        return copy

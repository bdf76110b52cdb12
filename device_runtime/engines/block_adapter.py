"""The state of an adapter that drafts a block of tokens in one pass.

It is fed like `FedAdapter`, with true deep rows alone: behind a position whose row has not come
down nothing is known, so that whatever waits and a whole block are one run. The rows that stand for
the block's tokens leave nothing behind: the cache holds text only.
"""

from collections.abc import Callable

import numpy as np

from device_runtime.engines.engine import Rows, StackCache
from device_runtime.engines.fed_adapter import FedAdapter

Tail = Callable[[Rows], Rows]
"""A shallow row `[H]`, to what stands for those of the tokens behind it, `[k - 1, H]`."""


class BlockAdapter(FedAdapter):
    """An `AdapterState` whose estimates come with those of places behind the text."""

    def __init__(self, cache: StackCache, tail: Tail) -> None:
        super().__init__(cache, comes_whole=False)
        self._tail = tail

    def estimate(self, rows: Rows, position: int) -> Rows:
        return self.estimate_block(rows, position, 1)[: len(rows)]

    def estimate_block(self, rows: Rows, position: int, num_places: int) -> Rows:
        """Estimates for the last positions, whose shallow rows `[T, H]` were added, and behind.

        The last of them is the first place of a block of `num_places`; `[T + num_places - 1, H]`.
        """
        assert self.num_tokens == position + len(rows), "rows are added before their estimates"
        self._run_again_from(position)
        for place in self._window[position - self._first :]:
            place.is_drafted = True
        start = self._cache.num_tokens
        waiting = self._fed_rows(start, self.num_tokens)
        hidden_size = rows.shape[1]
        behind = np.repeat(waiting[-1:], num_places - 1, axis=0)
        behind[:, :hidden_size] = self._tail(waiting[-1, :hidden_size])[: num_places - 1]
        estimates = self._cache.run(np.concatenate((waiting, behind)), start)
        self._cache.num_tokens = self.num_tokens
        return estimates[-(len(rows) + num_places - 1) :]

    def fork(self, num_tokens: int) -> "BlockAdapter":
        copy = BlockAdapter(self._cache.fork(min(num_tokens, self._cache.num_tokens)), self._tail)
        self._copy_window(copy, num_tokens)
        return copy

    def _run(self, end: int) -> Rows:
        start = self._cache.num_tokens
        return self._cache.run(self._fed_rows(start, end), start)

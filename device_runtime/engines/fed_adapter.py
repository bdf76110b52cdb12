"""The state of an adapter whose rows are fed with deep rows of the position before.

The row of position t is made of its shallow row and of what the whole model made of position t - 1.
That is the true deep row if it came down; else the adapter's own estimate, if position t - 1 was
drafted on from; else nothing, as in a prompt of which only the last row comes down. True rows come
after the adapter has run: what they feed, and all behind it, is then run again, so that every key
of a decided position is made of true rows. At any time the cache holds what running all positions
from the first, one after the other, would give with what is known by then.
"""

from dataclasses import dataclass, replace

import numpy as np

from device_runtime.engines.draft_model import MAX_WAITING_ROWS
from device_runtime.engines.engine import Rows, StackCache

# Beside the rows that wait, shallow and deep rows of so many positions are kept: more than any
# draft under way has. Twice 4 MiB at hidden size 4096.
MAX_SEEN_ROWS = 256


@dataclass(slots=True)
class _Position:
    """What is known of one position; rows are `[H]`."""

    shallow: Rows
    deep: Rows | None = None
    """The true deep row."""
    estimate: Rows | None = None
    """The adapter's, if it was drafted on from here and nothing before has changed since."""
    is_drafted: bool = False
    """Whether a draft went on behind this position."""

    @property
    def feature(self) -> Rows | None:
        """What the position behind this one is fed with."""
        return self.estimate if self.deep is None else self.deep


class FedAdapter:
    """An `AdapterState`; `comes_whole` says that the deep row of every position will come.

    The cache takes rows `[T, 2 H + 1]`: shallow row, feature of the position before, and 1 where
    there is one, else 0.

    A position far behind the last one is not run again when its true row comes late, and a fork
    that far back begins without one: of old positions nothing is kept but the cache.
    """

    def __init__(self, cache: StackCache, comes_whole: bool) -> None:
        self._cache = cache
        self._comes_whole = comes_whole
        self._first = 0
        self._window: list[_Position] = []

    @property
    def num_waiting(self) -> int:
        """Rows the adapter has not seen, or has to see again."""
        return self.num_tokens - self._cache.num_tokens

    @property
    def num_tokens(self) -> int:
        return self._first + len(self._window)

    def truncate(self, num_tokens: int) -> None:
        if num_tokens < self.num_tokens:
            self._cache.num_tokens = min(self._cache.num_tokens, num_tokens)
            del self._window[max(num_tokens - self._first, 0) :]
            self._first = min(self._first, num_tokens)

    def add(self, rows: Rows) -> None:
        num_old = self.num_tokens
        # Rows of their own memory: one row must not keep a whole prompt's.
        self._window.extend(_Position(row.copy()) for row in rows)
        if self.num_waiting > MAX_WAITING_ROWS:
            self._run(num_old)
        # One more than may be run again, since its feature is wanted.
        first = min(self._cache.num_tokens, self.num_tokens - MAX_SEEN_ROWS) - 1
        if first > self._first:
            del self._window[: first - self._first]
            self._first = first

    def learn(self, deep: Rows, position: int) -> None:
        end = min(position + len(deep), self.num_tokens)
        begin = max(position, self._first)
        for at in range(begin, end):
            self._at(at).deep = deep[at - position].copy()
        if begin < end:
            self._run_again_from(begin + 1)

    def estimate(self, rows: Rows, position: int) -> Rows:
        assert self.num_tokens == position + len(rows), "rows are added before their estimates"
        drafted = self._window[position - self._first :]
        kept: list[Rows] = []
        for place in drafted:
            if place.estimate is None:
                break
            kept.append(place.estimate)
        if len(kept) < len(rows):
            self._run_again_from(position + len(kept))
            for place in drafted:
                place.is_drafted = True
            kept += [*self._run(self.num_tokens)[len(kept) - len(rows) :]]
        return np.stack(kept)

    def prepare(self, num_rows: int) -> bool:
        end = self._cache.num_tokens
        limit = min(end + num_rows, self.num_tokens)
        while end < limit and self._is_settled(end):
            end += 1
        if end == self._cache.num_tokens:
            return False
        self._run(end)
        return end < self.num_tokens and self._is_settled(end)

    def fork(self, num_tokens: int) -> "FedAdapter":
        copy = FedAdapter(
            self._cache.fork(min(num_tokens, self._cache.num_tokens)), self._comes_whole
        )
        self._copy_window(copy, num_tokens)
        return copy

    def _copy_window(self, copy: "FedAdapter", num_tokens: int) -> None:
        """Give a copy what is known of the first `num_tokens` positions."""
        copy._first = min(self._first, num_tokens)
        copy._window = [replace(place) for place in self._window[: num_tokens - copy._first]]

    def _at(self, position: int) -> _Position:
        return self._window[position - self._first]

    def _before(self, position: int) -> _Position | None:
        """The position before; none before the first, or before all that is kept."""
        return self._at(position - 1) if position > self._first else None

    def _is_settled(self, position: int) -> bool:
        """Whether what a position is fed with will stay as it is."""
        before = self._before(position)
        if before is None or before.deep is not None:
            return True
        return not (before.is_drafted or self._comes_whole)

    def _run_again_from(self, position: int) -> None:
        self._cache.num_tokens = min(self._cache.num_tokens, position)
        for place in self._window[position - self._first :]:
            place.estimate = None

    def _run(self, end: int) -> Rows:
        """Run the rows that wait before `end`; their estimates."""
        estimates: list[Rows] = []
        while (start := self._cache.num_tokens) < end:
            stop = self._end_of_run(start, end)
            estimates.append(self._cache.run(self._fed_rows(start, stop), start))
            for at, row in zip(range(start, stop), estimates[-1], strict=True):
                if self._at(at).is_drafted:
                    self._at(at).estimate = row.copy()
        return estimates[0] if len(estimates) == 1 else np.concatenate(estimates)

    def _end_of_run(self, start: int, end: int) -> int:
        """How far one run goes: up to a row that is fed with an estimate of this same run."""
        for at in range(start + 1, end):
            before = self._at(at - 1)
            if before.is_drafted and before.deep is None:
                return at
        return end

    def _fed_rows(self, start: int, stop: int) -> Rows:
        size = len(self._at(start).shallow)
        rows = np.zeros((stop - start, 2 * size + 1), np.float32)
        for row, at in zip(rows, range(start, stop), strict=True):
            row[:size] = self._at(at).shallow
            before = self._before(at)
            if before is not None and before.feature is not None:
                row[size:-1] = before.feature
                row[-1] = 1.0
        return rows

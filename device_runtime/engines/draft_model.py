"""A draft model, and what an engine keeps of it per sequence: an adapter's state, known rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from device_runtime.engines.engine import DraftLimits, Rows, StackCache

MAX_WAITING_ROWS = 1024
"""Rows that wait for the adapter are memory beside the caches: 16 MiB at hidden size 4096."""


@dataclass(frozen=True, slots=True)
class DraftModel:
    """What stands in for the middle layers while drafting, ready to run.

    `head` turns rows `[R, H]` into logits, perhaps less exactly than the target's own head:
    `[R, V]` of every token, or `[R, k]` of those in `vocabulary`.
    """

    new_adapter: Callable[[], "AdapterState"]
    """Makes an empty one, whose estimates are of deep rows."""
    head: Callable[[Rows], Rows]
    limits: DraftLimits
    vocabulary: NDArray[np.int64] | None = None
    """The token ids `[k]`, ascending, that can be drafted; None: all."""
    is_published_head: bool = False
    """Its adapter reads embeddings in the place of shallow rows, and its estimates are of rows that
    leave the last layer."""
    block: "BlockHead | None" = None
    """In the place of `head`, where the adapter drafts blocks; its adapters are `BlockAdapter`s."""
    taps: int = 0
    """The depths whose rows it reads, as a bit set: bit d stands for rows after d layers."""


class BlockHead(Protocol):
    """The head of an adapter that drafts blocks."""

    block_size: int
    """Tokens of a block at most."""

    def begin(self, estimates: Rows) -> "BlockLogits":
        """Start on a block whose estimates are `[n, H]`."""
        ...


class BlockLogits(Protocol):
    """The logits of one block, place by place."""

    def next(self, token_id: int | None) -> Rows:
        """Logits at the next place, behind the token drafted at the one before (None at first)."""
        ...


class AdapterState(Protocol):
    """One sequence's keys and values in the adapter, which lag behind the input layers'."""

    @property
    def num_tokens(self) -> int:
        """Positions held, seen by the adapter or waiting."""
        ...

    def truncate(self, num_tokens: int) -> None:
        """Forget what lies from `num_tokens` on."""
        ...

    def add(self, rows: Rows) -> None:
        """Take the shallow rows `[T, H]` that follow."""
        ...

    def learn(self, deep: Rows, position: int) -> None:
        """Take true deep rows `[T, H]` at `position`; those of positions not held are ignored."""
        ...

    def estimate(self, rows: Rows, position: int) -> Rows:
        """Estimates `[T, H]` for the last positions, whose shallow rows were added.

        A draft goes on behind them. Seen before or not, they are the same.
        """
        ...

    def prepare(self, num_rows: int) -> bool:
        """Run at most `num_rows` rows that wait; whether it would be of use to go on."""
        ...

    def fork(self, num_tokens: int) -> "AdapterState":
        """A copy of the first `num_tokens` positions."""
        ...


class WholeLogits:
    """Logits `[k]` of a few tokens as logits `[V]`, minus infinity for all others."""

    def __init__(self, token_ids: NDArray[np.int64], vocab_size: int) -> None:
        self._token_ids = token_ids
        self._whole: Rows = np.full(vocab_size, -np.inf, np.float32)

    def of(self, logits: Rows) -> Rows:
        """The same memory every time, since always the same places of it change."""
        self._whole[self._token_ids] = logits
        return self._whole


def top_probability(logits: Rows) -> float:
    """The likeliest token's probability at temperature 1, of logits `[V]`."""
    return float(1.0 / np.exp(logits - logits.max()).sum())


class LaggingAdapter:
    """An `AdapterState` of an adapter that sees shallow rows alone.

    Whoever makes shallow rows adds them; the adapter runs over them when an estimate is wanted, or
    when there is time. So after a fully accepted draft the last drafted row, which drafting did not
    need, is simply one that waits, and the prompt's rows delay nothing.
    """

    def __init__(self, cache: StackCache) -> None:
        self._cache = cache
        self._waiting: Rows | None = None

    @property
    def num_waiting(self) -> int:
        """Rows the adapter has not seen."""
        return 0 if self._waiting is None else len(self._waiting)

    @property
    def num_tokens(self) -> int:
        return self._cache.num_tokens + self.num_waiting

    def truncate(self, num_tokens: int) -> None:
        self._cache.num_tokens = min(self._cache.num_tokens, num_tokens)
        num_kept = min(self.num_waiting, num_tokens - self._cache.num_tokens)
        self._waiting = self._waiting[:num_kept] if self._waiting is not None and num_kept else None

    def add(self, rows: Rows) -> None:
        old = self._waiting
        self._waiting = rows if old is None else np.concatenate((old, rows))
        num_old = len(self._waiting) - len(rows)
        if num_old > 0 and len(self._waiting) > MAX_WAITING_ROWS:
            self.catch_up(num_old)

    def learn(self, deep: Rows, position: int) -> None:
        """Nothing to learn."""

    def estimate(self, rows: Rows, position: int) -> Rows:
        # Once more those it has seen: a repeated beginning of a draft is a row or two.
        self.truncate(position)
        self.add(rows)
        return self.catch_up(self.num_waiting)[-len(rows) :]

    def prepare(self, num_rows: int) -> bool:
        if self.num_waiting == 0:
            return False
        self.catch_up(num_rows)
        return self.num_waiting > 0

    def catch_up(self, num_rows: int) -> Rows:
        """Run the adapter over the first `num_rows` waiting rows, at least one; its estimates."""
        assert self._waiting is not None, "rows come before estimates"
        seen, rest = self._waiting[:num_rows], self._waiting[num_rows:]
        estimates = self._cache.run(seen, self._cache.num_tokens)
        self._waiting = rest if len(rest) else None
        return estimates

    def fork(self, num_tokens: int) -> "LaggingAdapter":
        copy = LaggingAdapter(self._cache.fork(min(num_tokens, self._cache.num_tokens)))
        num_kept = num_tokens - copy.num_tokens
        if self._waiting is not None and num_kept > 0:
            copy.add(self._waiting[:num_kept].copy())
        return copy


class RowMemory:
    """Shallow rows made while drafting, so that the verification need not make them again.

    The rows are those that the input layers' cache holds at `[position, position + len)`.
    """

    def __init__(self) -> None:
        self._position = 0
        self._token_ids: list[int] = []
        self._rows: list[Rows] = []

    def recall(self, token_ids: Sequence[int], position: int) -> list[Rows]:
        """Rows `[H]` of the longest beginning of the tokens that is known at `position`.

        What is remembered behind it is forgotten, since other tokens take its place.
        """
        offset = position - self._position
        if not 0 <= offset <= len(self._token_ids):
            self.forget()
            return []
        pairs = zip(self._token_ids[offset:], token_ids, strict=False)
        num_known = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        del self._token_ids[offset + num_known :], self._rows[offset + num_known :]
        return self._rows[offset:]

    def keep_from(self, position: int) -> None:
        """Forget what lies before `position`."""
        num_before = min(max(position - self._position, 0), len(self._token_ids))
        del self._token_ids[:num_before], self._rows[:num_before]
        self._position += num_before

    def append(self, token_ids: Sequence[int], rows: Rows, position: int) -> None:
        """Remember rows `[T, H]` at `position`, which follows what is remembered."""
        if not self._token_ids:
            self._position = position
        assert position == self._position + len(self._token_ids), "remembered rows have no gaps"
        self._token_ids.extend(token_ids)
        self._rows.extend(rows)

    def forget(self) -> None:
        """Remember nothing."""
        self._token_ids.clear()
        self._rows.clear()

"""Which finished sessions are kept, so that a conversation's next turn need not go up again."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Place = TypeVar("Place")
"""Whatever the caller keeps for a session: its caches on both sides."""


@dataclass(frozen=True, slots=True)
class PrefixCacheLimits:
    """At most `max_sessions` are kept, with `max_tokens` reserved positions in all.

    A shared prefix shorter than `min_shared_tokens` is not worth looking after.
    """

    max_sessions: int
    max_tokens: int
    min_shared_tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class Kept(Generic[Place]):
    """A finished session: the text in its caches `[N]`, the positions it reserves, its end."""

    text: NDArray[np.int64]
    reserved_tokens: int
    place: Place
    expires_s: float


@dataclass(frozen=True, slots=True)
class Match(Generic[Place]):
    """A kept session that begins as the prompt does, for `num_shared_tokens` tokens.

    If `is_taken`, it left the cache and is the caller's to continue. Else it may be forked, and
    can go afterwards if it `is_superseded`: the prompt continues most of it.
    """

    kept: Kept[Place]
    num_shared_tokens: int
    is_taken: bool
    is_superseded: bool

    @property
    def place(self) -> Place:
        """Its caches."""
        return self.kept.place


class PrefixCache(Generic[Place]):
    """Kept sessions, the most recently used last. `now` is a monotonic clock in seconds."""

    def __init__(self, limits: PrefixCacheLimits, is_alive: Callable[[Place], bool]) -> None:
        self._limits = limits
        self._is_alive = is_alive
        self._kept: list[Kept[Place]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def num_shared_tokens(self, prompt_ids: Sequence[int]) -> int:
        """How much of the prompt `find` would give; 0 for nothing."""
        return self._longest(prompt_ids)[1]

    def find(self, prompt_ids: Sequence[int], reserved_tokens: int) -> Match[Place] | None:
        """The session that shares the longest prefix, always less than the whole prompt.

        It is taken out when most of it is shared (the next turn of a conversation) and its
        reservation is enough; otherwise it stays, for a fork (a common system prompt).
        """
        best, most = self._longest(prompt_ids)
        if best is None:
            return None
        self._kept.remove(best)
        is_superseded = 2 * most >= len(best.text)
        is_taken = is_superseded and reserved_tokens <= best.reserved_tokens
        if not is_taken:
            self._kept.append(best)
        return Match(best, most, is_taken, is_superseded)

    def _longest(self, prompt_ids: Sequence[int]) -> tuple[Kept[Place] | None, int]:
        """What shares the longest prefix, and how long that is."""
        prompt = np.asarray(prompt_ids, dtype=np.int64)
        best, most = None, self._limits.min_shared_tokens - 1
        for kept in self._kept:
            num_shared = num_shared_tokens(kept.text, prompt)
            if num_shared > most and self._is_alive(kept.place):
                best, most = kept, num_shared
        return best, 0 if best is None else most

    def keep(self, kept: Kept[Place], now: float) -> list[Place]:
        """Keep a finished session; returns the places given up for it, perhaps its own."""
        self._kept.append(kept)
        dropped = self.expire(now)
        while len(self._kept) > self._limits.max_sessions or self._num_reserved_tokens > (
            self._limits.max_tokens
        ):
            dropped.append(self._kept.pop(0).place)
        return dropped

    def remove(self, place: Place) -> bool:
        """Take one session out; False if it is not kept."""
        before = len(self._kept)
        self._kept = [kept for kept in self._kept if kept.place is not place]
        return len(self._kept) < before

    def expire(self, now: float) -> list[Place]:
        """Take out what was idle too long or is no longer alive."""
        gone = [
            kept for kept in self._kept if kept.expires_s <= now or not self._is_alive(kept.place)
        ]
        self._kept = [kept for kept in self._kept if kept not in gone]
        return [kept.place for kept in gone]

    @property
    def next_expiry_s(self) -> float:
        """When the first of them is idle too long, by the same clock; never if nothing is kept."""
        return min((kept.expires_s for kept in self._kept), default=math.inf)

    @property
    def places(self) -> list[Place]:
        """All that is kept, the most recently used last."""
        return [kept.place for kept in self._kept]

    def drop_older_half(self) -> list[Place]:
        """Take out the half that was not used for longer, rounded up."""
        num_dropped = (len(self._kept) + 1) // 2
        dropped, self._kept = self._kept[:num_dropped], self._kept[num_dropped:]
        return [kept.place for kept in dropped]

    def clear(self) -> list[Place]:
        """Take out everything."""
        places, self._kept = self.places, []
        return places

    @property
    def _num_reserved_tokens(self) -> int:
        return sum(kept.reserved_tokens for kept in self._kept)


def num_shared_tokens(text: NDArray[np.int64], prompt: NDArray[np.int64]) -> int:
    """Length of the common prefix; the prompt's last token, which is computed anyway, is none."""
    length = min(len(text), len(prompt) - 1)
    differing = np.flatnonzero(text[:length] != prompt[:length])
    return int(differing[0]) if len(differing) else length

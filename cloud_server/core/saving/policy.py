"""When copying a session to host memory pays, how much a step copies, and whose copy goes first.

A session that is ended instead is sent again by its device, over an uplink that is the dearest
thing there is, and computed again. A copy costs the engine's thread twice: out, and back in.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from cloud_server.core.actions import Identity, SequenceHandle

_FAST_LINK_BYTES_PER_S = 12.5e6
"""100 Mbit/s: who replays over a slower uplink gains more by a copy than is counted here."""

_FIRST_TOKENS = 64
"""Of the first copy, as nothing is known of the rate yet."""

_GROWTH = 4
"""A step copies at most so many times what the last one copied, until the rate is known better."""

_PAST_WEIGHT = 0.8
"""Weight of the past in the rate; one late copy does not make a machine slow."""


class CopyPace:
    """How long copies take by measure, and how many positions one step may copy.

    A step copies whole blocks of `block_tokens`, one at least. Up to `few_tokens` rows are sent
    again in one frame that goes first; to copy them is not worth a step's attention.
    """

    def __init__(self, block_tokens: int, few_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._few_tokens = few_tokens
        self._token_s: float | None = None
        self._most_tokens = _FIRST_TOKENS

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Learn from a step that copied so many positions."""
        if num_tokens < 1:
            return
        token_s = seconds / num_tokens
        past_s = token_s if self._token_s is None else self._token_s
        self._token_s = _PAST_WEIGHT * past_s + (1 - _PAST_WEIGHT) * token_s
        self._most_tokens = max(self._most_tokens, _GROWTH * num_tokens)

    def step_tokens(self, limit_s: float) -> int:
        """How many positions take about so long to copy."""
        fitting = self._most_tokens
        if self._token_s:
            fitting = min(fitting, int(limit_s / self._token_s))
        return max(1, fitting // self._block_tokens) * self._block_tokens

    def is_worth(self, num_tokens: int, row_bytes: int, run_s: float) -> bool:
        """Whether to copy so many positions out and back takes no longer than to send their rows
        again, over a fast link, and to compute them again, which takes `run_s`."""
        if num_tokens <= self._few_tokens:
            return False
        upload_s = num_tokens * row_bytes / _FAST_LINK_BYTES_PER_S
        return 2 * num_tokens * (self._token_s or 0.0) <= upload_s + run_s


@dataclass(frozen=True, slots=True)
class Kept:
    """A copy in host memory that nobody waits for; `num_tokens` in whole blocks."""

    handle: SequenceHandle
    identity: Identity | None
    num_tokens: int
    quiet_since_s: float


def whose_copies_go(kept: Iterable[Kept], newcomer: Kept, short_tokens: int) -> list[Kept] | None:
    """The copies to drop so that `short_tokens` more are free; None if that is not to be had.

    Whoever has most loses first, the newcomer's own counted in, and of his the longest idle one.
    A newcomer never drops what is of somebody with less.
    """
    left = sorted(kept, key=lambda each: each.quiet_since_s)
    held = Counter[Identity | None]({newcomer.identity: newcomer.num_tokens})
    for each in left:
        held[each.identity] += each.num_tokens
    dropped: list[Kept] = []
    while short_tokens > 0:
        most = max((held[each.identity] for each in left), default=0)
        oldest = next((each for each in left if held[each.identity] == most), None)
        if oldest is None or most < held[newcomer.identity]:
            return None
        left.remove(oldest)
        held[oldest.identity] -= oldest.num_tokens
        dropped.append(oldest)
        short_tokens -= oldest.num_tokens
    return dropped

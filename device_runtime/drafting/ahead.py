"""Parallel drafting: continuations of a draft that is being verified, and whether they pay."""

from collections.abc import Sequence
from dataclasses import dataclass

_FADING = 0.97
"""Weight of a round against the next one: about the last 33 count."""

_PROBE_ROUNDS = 16
"""The other way is tried this often: 6 % of the rounds."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Tokens that may stand at index `offset` of a draft and behind it, or right after its end."""

    offset: int
    tokens: tuple[int, ...]


def kept_tokens(
    branches: Sequence[Branch], draft: Sequence[int], decided: Sequence[int]
) -> tuple[int, ...]:
    """What the branches say behind a round's decided tokens: the longest; nothing if none matches.

    `decided` are the accepted tokens of `draft` and one of the target's own. A branch matches when
    the text decided from its offset on is how it begins.

    Source: parallel drafting in HAT (arXiv:2503.18989).
    """
    kept: tuple[int, ...] = ()
    for branch in branches:
        if branch.offset >= len(decided) or branch.offset > len(draft):
            continue
        begun = tuple(decided[branch.offset :])
        tail = branch.tokens[len(begun) :]
        if branch.tokens[: len(begun)] == begun and len(tail) > len(kept):
            kept = tail
    return kept


class AheadSwitch:
    """Whether to draft ahead: the way that brings more tokens per second, by what was measured.

    Both ways are tried first, then the better one runs and the other is tried now and then, so a
    change of the link or the load is noticed. Rates are tokens over seconds, both fading. It stays
    off where it is not allowed at all.
    """

    def __init__(self, is_allowed: bool = True) -> None:
        self._is_allowed = is_allowed
        self._tokens = {False: 0.0, True: 0.0}
        self._seconds = {False: 0.0, True: 0.0}
        self._num_rounds = 0

    def is_on(self) -> bool:
        """Whether the next round drafts ahead."""
        if not self._is_allowed:
            return False
        if self._num_rounds < 4:
            return self._num_rounds % 2 == 0
        better = self._rate(True) >= self._rate(False)
        is_probe = self._num_rounds % _PROBE_ROUNDS == 0
        return better is not is_probe

    def on_round(self, was_on: bool, num_tokens: int, round_s: float) -> None:
        """Take a round's tokens and the seconds from the decision before to its own."""
        self._num_rounds += 1
        self._tokens[was_on] = self._tokens[was_on] * _FADING + num_tokens
        self._seconds[was_on] = self._seconds[was_on] * _FADING + round_s

    def _rate(self, is_on: bool) -> float:
        return self._tokens[is_on] / max(self._seconds[is_on], 1e-9)

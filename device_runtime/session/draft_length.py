"""How many tokens to draft: as many as bring the most tokens per second, by what was measured."""

from typing import Protocol


class DraftLength(Protocol):
    """Says how many tokens the next draft may have; learns from every round."""

    def num_tokens(self) -> int:
        """The most tokens worth drafting now; 0 to decode plainly."""
        ...

    def on_round(self, num_drafted: int, num_accepted: int, round_s: float) -> None:
        """Take the outcome of a round; `round_s` runs from the drafting to the decision."""
        ...


class FixedDraftLength:
    """Always the same number."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens

    def num_tokens(self) -> int:
        return self._num_tokens

    def on_round(self, num_drafted: int, num_accepted: int, round_s: float) -> None:
        """Nothing to learn."""


class GoodputDraftLength:
    """The draft length with the highest predicted goodput, and a probe now and then.

    With p the chance that a drafted token is accepted where the ones before it were, a round of k
    drafted tokens gives `1 + p + ... + p**k` tokens and takes `base_s + k * row_s` seconds. The
    k in `[0, max_tokens]` with the largest quotient (tokens per second) wins, the smallest of
    equals. When that is 0 no acceptance can be seen, so every `_PROBE_ROUNDS` rounds one token is
    drafted all the same, and again at once as long as such probes are accepted.

    p, base_s and row_s are estimated with exponentially fading weights: p as a ratio of counts, the
    times by a least-squares line through (k, round_s) that leans towards `_ROW_SHARE`. Rounds of
    one length say nothing about the cost of a row, so while that is so every `_PROBE_ROUNDS`-th
    round drafts half.

    Source: the stop-and-wait formula of speculative decoding (Leviathan et al., 2023,
    arXiv:2211.17192, section 3) with measured times.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._accepted = _PRIOR_COUNT
        self._rejected = _PRIOR_COUNT
        self._line = _FadingLine()
        self._rounds_until_probe = 0
        self._num_rounds = 0

    def num_tokens(self) -> int:
        goodputs = self.goodputs()
        best = goodputs.index(max(goodputs))
        if best == 0 and self._max_tokens > 0 and self._rounds_until_probe == 0:
            return 1
        if self._line.is_unsure and self._num_rounds % _PROBE_ROUNDS == _PROBE_ROUNDS - 1:
            return best // 2
        return best

    def on_round(self, num_drafted: int, num_accepted: int, round_s: float) -> None:
        self._num_rounds += 1
        self._line.add(num_drafted, round_s)
        if num_drafted == 0:
            self._rounds_until_probe = max(0, self._rounds_until_probe - 1)
            return
        for index in range(min(num_accepted + 1, num_drafted)):
            is_accepted = index < num_accepted
            self._accepted = self._accepted * _POSITION_FADING + is_accepted
            self._rejected = self._rejected * _POSITION_FADING + (not is_accepted)
        self._rounds_until_probe = 0 if num_accepted == num_drafted else _PROBE_ROUNDS

    def goodputs(self) -> list[float]:
        """Predicted tokens per second of a round, by the number of drafted tokens from 0 on."""
        acceptance = self._accepted / (self._accepted + self._rejected)
        base_s, row_s = self._line.estimate()
        num_tokens = 0.0
        found = []
        for num_drafted in range(self._max_tokens + 1):
            num_tokens += acceptance**num_drafted
            found.append(num_tokens / (base_s + num_drafted * row_s))
        return found


_PRIOR_COUNT = 1.0
"""One accepted and one rejected token: a draft is worth a try before anything was seen."""

_POSITION_FADING = 0.93
"""Weight of a tested token against the next one: about the last 14 count."""

_ROUND_FADING = 0.97
"""Weight of a round's time against the next one: about the last 33 count."""

_ROW_SHARE = 0.05
"""A drafted row's time as a share of a round's, until measured: 5 to 10 % for hidden size 4096
in 16 bits at 10 Mbit/s and 50 ms, less on faster links."""

_ROW_SHARE_WEIGHT = 2.0
"""How many rounds with one token more or less weigh as much as that assumption."""

_PROBE_ROUNDS = 16


class _FadingLine:
    """`round_s = base_s + k * row_s`, fitted to recent rounds."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._mean_k = 0.0
        self._mean_s = 1.0
        self._variation_k = 0.0
        self._covariation = 0.0

    @property
    def is_unsure(self) -> bool:
        """Whether the cost of a row is still more assumed than measured."""
        return self._variation_k < 2 * _ROW_SHARE_WEIGHT

    def add(self, num_drafted: int, round_s: float) -> None:
        """Fade what is known and add one round (Welford's update with weights)."""
        old = self._weight * _ROUND_FADING
        self._weight = old + 1.0
        off_k, off_s = num_drafted - self._mean_k, round_s - self._mean_s
        if old == 0.0:
            off_s, self._mean_s = 0.0, round_s
        share = old / self._weight
        self._variation_k = self._variation_k * _ROUND_FADING + share * off_k * off_k
        self._covariation = self._covariation * _ROUND_FADING + share * off_k * off_s
        self._mean_k += off_k / self._weight
        self._mean_s += off_s / self._weight

    def estimate(self) -> tuple[float, float]:
        """`(base_s, row_s)`; the base is positive and a row costs no less than nothing."""
        mean_s = max(self._mean_s, 1e-9)
        assumed_row_s = mean_s * _ROW_SHARE / (1.0 + _ROW_SHARE * self._mean_k)
        row_s = (self._covariation + _ROW_SHARE_WEIGHT * assumed_row_s) / (
            self._variation_k + _ROW_SHARE_WEIGHT
        )
        row_s = max(row_s, 0.0)
        return max(mean_s - row_s * self._mean_k, 0.1 * mean_s), row_s

"""Parallel drafting: whether it pays to draft on behind a draft that is being verified."""

_FADING = 0.97
"""Weight of a round against the next one: about the last 33 count."""

_PROBE_ROUNDS = 16
"""The other way is tried this often: 6 % of the rounds."""


class AheadSwitch:
    """Whether to draft ahead: the way that brings more tokens per second, by what was measured.

    Both ways are tried first, then the better one runs and the other is tried now and then, so a
    change of the link or the load is noticed. Rates are tokens over seconds, both fading. It stays
    off where it is not allowed at all.

    Source: parallel drafting in HAT (arXiv:2503.18989); the switch is ours.
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

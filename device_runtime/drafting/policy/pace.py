"""What a token takes at present: what one that is accepted saves."""

_FADING = 0.95
"""Weight of a round against the next one: about the last 20 count."""

_COMMON_FADING = 0.995
"""The same over all texts: about the last 200."""

_INHERITED = 4.0
"""A text begins with what others taught, as if it had seen so many rounds itself."""


class Pace:
    """Tokens and costs of late rounds, each cost as a share of a round without a draft."""

    def __init__(self) -> None:
        self._fading = _COMMON_FADING
        self._weight = _INHERITED
        self._tokens = _INHERITED
        self._costs = 0.0

    def for_one_text(self) -> "Pace":
        """A pace that begins as this one and soon goes its own way."""
        copy = Pace()
        copy._fading = _FADING
        copy._tokens = _INHERITED * self._tokens / self._weight
        copy._costs = _INHERITED * self._costs / self._weight
        return copy

    def rounds_per_token(self) -> float:
        """Time of a token in rounds without a draft; at most 1, since that can always be had."""
        return min((self._weight + self._costs) / self._tokens, 1.0)

    def on_round(self, num_tokens: int, cost: float) -> None:
        """Take a round."""
        self._weight = self._weight * self._fading + 1.0
        self._tokens = self._tokens * self._fading + num_tokens
        self._costs = self._costs * self._fading + cost

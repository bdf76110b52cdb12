"""How often something comes true, by counts that fade."""

from collections.abc import Sequence

_OWN_FADING = 0.93
"""Within one text, weight of a case against the next one: about the last 14 count."""

_COMMON_FADING = 0.995
"""Over all texts: about the last 200 count."""

_MOST_INHERITED = 4.0
"""A new text begins with what others taught, as if it had seen so many cases itself."""


class Chance:
    """The share of cases that came true."""

    def __init__(self, prior: float, weight: float, fading: float = _COMMON_FADING) -> None:
        self._true = prior * weight
        self._weight = weight
        self._fading = fading

    @property
    def value(self) -> float:
        """Between 0 and 1."""
        return self._true / self._weight

    def learn(self, is_true: bool) -> None:
        """Take one case."""
        self._true = self._true * self._fading + is_true
        self._weight = self._weight * self._fading + 1.0

    def for_one_text(
        self, fading: float = _OWN_FADING, most_inherited: float = _MOST_INHERITED
    ) -> "Chance":
        """A chance that begins as this one and soon goes its own way."""
        return Chance(self.value, min(self._weight, most_inherited), fading)


class Shares:
    """How often each of some classes comes, by counts that fade."""

    def __init__(self, counts: Sequence[float], fading: float = _COMMON_FADING) -> None:
        self._counts = [*counts]
        self._fading = fading

    def values(self) -> tuple[float, ...]:
        """They sum to 1."""
        total = sum(self._counts)
        return tuple(count / total for count in self._counts)

    def learn(self, place: int) -> None:
        """Take one case."""
        self._counts = [self._fading * count for count in self._counts]
        self._counts[place] += 1.0

    def for_one_text(self, fading: float, most_inherited: float) -> "Shares":
        """Shares that begin as these and soon go their own way."""
        total = sum(self._counts)
        kept = min(1.0, most_inherited / total)
        return Shares([kept * count for count in self._counts], fading)

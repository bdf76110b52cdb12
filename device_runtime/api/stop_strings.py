"""Where a text meets a stop string, however the text is cut into pieces."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Matched:
    """Text that is certain, and whether a stop string came right after it."""

    text: str
    is_stopped: bool


class StopMatcher:
    """Passes text on up to the first stop string, holding back only what may begin one.

    The first stop string is the one that is complete first; of several that end together the
    longest. So the result does not depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops` holds no empty string."""
        self._prefixes = [_Prefix(stop) for stop in stops]
        self._held = ""

    def push(self, text: str) -> Matched:
        """What may be shown after this piece. Nothing may be pushed after a stop."""
        if not self._prefixes:
            return Matched(text, is_stopped=False)
        text = self._held + text
        for end in range(len(self._held) + 1, len(text) + 1):
            num_matched = self._advance(text[end - 1])
            if num_matched:
                self._held = ""
                return Matched(text[: end - num_matched], is_stopped=True)
        num_certain = len(text) - max(prefix.length for prefix in self._prefixes)
        self._held = text[num_certain:]
        return Matched(text[:num_certain], is_stopped=False)

    def pass_by(self, text: str) -> str:
        """Text that is not looked at, after what is held; nothing before it can match any more."""
        text = self.flush() + text
        for prefix in self._prefixes:
            prefix.length = 0
        return text

    def flush(self) -> str:
        """What is held back, at the end of the text."""
        held, self._held = self._held, ""
        return held

    def _advance(self, character: str) -> int:
        """Take one character; the length of the longest stop string it completes, or 0."""
        return max(prefix.advance(character) for prefix in self._prefixes)


class _Prefix:
    """How much of one stop string the text ends with.

    Source: Knuth, Morris and Pratt, 1977: constant time per character, amortised.
    """

    def __init__(self, stop: str) -> None:
        self._stop = stop
        self._borders = _borders(stop)
        self.length = 0

    def advance(self, character: str) -> int:
        """Take one character; the stop string's length when it is complete, else 0."""
        while self.length and self._stop[self.length] != character:
            self.length = self._borders[self.length - 1]
        if self._stop[self.length] == character:
            self.length += 1
        return self.length if self.length == len(self._stop) else 0


def _borders(stop: str) -> list[int]:
    """For each prefix, the length of its longest proper prefix that is also its suffix."""
    borders = [0]
    for character in stop[1:]:
        length = borders[-1]
        while length and stop[length] != character:
            length = borders[length - 1]
        borders.append(length + (stop[length] == character))
    return borders

"""Where a text meets a stop string, however the text is cut into pieces."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Matched:
    """Text that is certain, and whether a stop string came right after it."""

    text: str
    is_stopped: bool
    stop: str = ""
    """Which one."""


class StopStrings:
    """What is looked for, prepared once for all choices of a request; time linear in its length.

    A state is what a text ends with, as far as a stop string begins so: a node of the trie of all
    stop strings, 0 where nothing is begun.

    Source: Aho and Corasick, 1975: constant time per character of the text, amortised, however
    many stop strings there are.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops` holds no empty string."""
        self._children: list[dict[str, int]] = [{}]
        self._shorter = [0]
        self.depths = [0]
        """How many characters each state stands for."""
        self.matches = [0]
        """The length of the longest stop string that is complete in each state, or 0."""
        for stop in stops:
            self._add(stop)
        self._link()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to look for."""
        return len(self.depths) == 1

    def next(self, state: int, character: str) -> int:
        """The state after one more character."""
        while (child := self._children[state].get(character)) is None:
            if state == 0:
                return 0
            state = self._shorter[state]
        return child

    def _add(self, stop: str) -> None:
        """Make the states of one stop string."""
        state = 0
        for character in stop:
            child = self._children[state].get(character)
            if child is None:
                child = len(self.depths)
                self._children[state][character] = child
                self._children.append({})
                self._shorter.append(0)
                self.depths.append(self.depths[state] + 1)
                self.matches.append(0)
            state = child
        self.matches[state] = len(stop)

    def _link(self) -> None:
        """Find for each state the longest shorter one that its text ends with, short ones first."""
        states = deque(self._children[0].values())
        while states:
            state = states.popleft()
            shorter = self._shorter[state]
            self.matches[state] = max(self.matches[state], self.matches[shorter])
            for character, child in self._children[state].items():
                self._shorter[child] = self.next(shorter, character)
                states.append(child)


class StopMatcher:
    """Passes text on up to the first stop string, holding back only what may begin one.

    The first stop string is the one that is complete first; of several that end together the
    longest. So the result does not depend on how the text was cut into pieces.
    """

    def __init__(self, stops: StopStrings) -> None:
        self._stops = stops
        self._state = 0
        self._held = ""

    def push(self, text: str) -> Matched:
        """What may be shown after this piece. Nothing may be pushed after a stop."""
        if self._stops.is_empty:
            return Matched(text, is_stopped=False)
        text = self._held + text
        for end in range(len(self._held) + 1, len(text) + 1):
            self._state = self._stops.next(self._state, text[end - 1])
            num_matched = self._stops.matches[self._state]
            if num_matched:
                self._held = ""
                start = end - num_matched
                return Matched(text[:start], is_stopped=True, stop=text[start:end])
        num_certain = len(text) - self._stops.depths[self._state]
        self._held = text[num_certain:]
        return Matched(text[:num_certain], is_stopped=False)

    def pass_by(self, text: str) -> str:
        """Text that is not looked at, after what is held; nothing before it can match any more."""
        self._state = 0
        return self.flush() + text

    def flush(self) -> str:
        """What is held back, at the end of the text."""
        held, self._held = self._held, ""
        return held

"""Where JSON ends in a text that goes on behind it."""

import re

_OUTSIDE = re.compile(r'["{}\[\]]')
_INSIDE = re.compile(r'["\\]')


class JsonEnd:
    """Finds where an object, a list or a string ends, in a text that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_string = self._is_escaped = False

    def find(self, text: str) -> tuple[int, bool]:
        """How many characters are of it, and whether it ends with them."""
        place = 0
        while place < len(text):
            place = self._next(text, place)
            if self._depth == 0 and not self._is_string:
                return place, True
        return len(text), False

    def _next(self, text: str, place: int) -> int:
        """Read up to the next character that matters, and with it; where it ends."""
        if self._is_escaped:
            self._is_escaped = False
            return place + 1
        found = (_INSIDE if self._is_string else _OUTSIDE).search(text, place)
        if found is None:
            return len(text)
        if found[0] == '"':
            self._is_string = not self._is_string
        elif found[0] == "\\":
            self._is_escaped = True
        else:
            self._depth += 1 if found[0] in "{[" else -1
        return found.end()

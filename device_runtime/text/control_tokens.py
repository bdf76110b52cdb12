"""Text of a user that cannot be read as the marks by which a conversation is told."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from device_runtime.text.tokenizer import Tokenizer

_UNTRUSTED = frozenset({"user", "tool"})
"""Roles whose words come from people and from the world; the others' are the application's."""

Message = Mapping[str, Any]


class ControlTokenError(ValueError):
    """A text is read as a control token in a spelling that cannot be broken; safe to show."""


class ControlTokens:
    """Breaks what a tokenizer would read as its control tokens: a space behind the first character.

    These are its special tokens, and added ones that are written like marks.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids = frozenset(tokenizer.control_ids.values())
        names = sorted(tokenizer.control_ids, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names))) if names else None

    def without(self, text: str) -> str:
        """The text with each of them broken; others come back as they are.

        Raises:
            ControlTokenError: the tokenizer's own normalisation makes one of another spelling.
        """
        if self._names is None:
            return text
        while self._names.search(text):
            text = self._names.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
        if not self._ids.isdisjoint(self._tokenizer.encode(text, add_special_tokens=False)):
            raise ControlTokenError("a text that is read as a control token in any spelling")
        return text

    def without_in(self, message: Message) -> dict[str, Any]:
        """A message of a conversation, unless it is the application's own.

        Its parts become one text: a template may write them without anything between them.

        Raises:
            ControlTokenError: as `without`.
        """
        if message["role"] not in _UNTRUSTED:
            return dict(message)
        changed = dict(message)
        for name in ("content", "name", "tool_call_id"):
            if name in message:
                changed[name] = self.without(_joined(message[name]))
        return changed


def _joined(content: str | Sequence[Mapping[str, str]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content)

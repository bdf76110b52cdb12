"""A conversation whose last message is not closed: where its words end in the text.

Source: `continue_final_message` of transformers, which finds the end by a mark as well.
"""

from collections.abc import Mapping
from typing import Any

_MARK = "qxzhatcontinued"
# A space behind it tells a template that keeps white space from one that trims.
_TAIL = " "


class UnwrittenError(ValueError):
    """The last message's words are not in the text."""


def with_mark(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with a mark behind its words: a text, or the last of its parts."""
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": content + _MARK + _TAIL}
    if not content:
        return {**message, "content": [{"type": "text", "text": _MARK + _TAIL}]}
    last = {**content[-1], "text": content[-1]["text"] + _MARK + _TAIL}
    return {**message, "content": [*content[:-1], last]}


def cut_at_mark(text: str) -> str:
    """The text before the mark, without white space where the template trims what is said.

    Raises:
        UnwrittenError: there is no mark.
    """
    place = text.rfind(_MARK)
    if place < 0:
        raise UnwrittenError
    before, behind = text[:place], text[place + len(_MARK) :]
    return before if behind.startswith(_TAIL) else before.rstrip()

"""Arguments that are written one by one as plain text, and what they are as JSON.

`<parameter=NAME>`, a line break, what it is, a line break and `</parameter>`. A string stands as it
is; everything else is JSON, and so is a value that may be either.
"""

import json
from collections.abc import Mapping
from typing import Any

_OPEN, _NAMED, _CLOSE = "<parameter=", ">\n", "\n</parameter>\n"
_END = "</function>"


class XmlArguments:
    """Reads the parameters of one call; they are told one by one, each when it is whole."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        properties = schema.get("properties")
        self._properties = properties if isinstance(properties, Mapping) else {}
        self._num = 0

    def read(self, text: str) -> tuple[str, str, bool]:
        """What is certain of the arguments as JSON, the text that is left, and whether all came."""
        told = ""
        while text.startswith(_OPEN) and (end := text.find(_CLOSE)) >= 0:
            name, _, value = text[len(_OPEN) : end].partition(_NAMED)
            told += ", " if self._num else "{"
            told += f"{json.dumps(name)}: {self._value(name, value)}"
            text = text[end + len(_CLOSE) :]
            self._num += 1
        if text.startswith(_END):
            return told + ("}" if self._num else "{}"), text, True
        return told, text, False

    def _value(self, name: str, value: str) -> str:
        if is_plain(self._properties.get(name)):
            return json.dumps(value, ensure_ascii=False)
        return value


def is_plain(schema: object) -> bool:
    """Whether a parameter stands as plain text: its schema says it is a string, and no more."""
    return isinstance(schema, Mapping) and schema.get("type") == "string"


def parameter(name: str) -> tuple[str, str]:
    """What stands before a parameter and behind it."""
    return f"{_OPEN}{name}{_NAMED}", _CLOSE

"""Arguments that are written one by one as plain text, and what they are as JSON.

`<parameter=NAME>`, a line break, what it is, a line break and `</parameter>`. A string stands as it
is, also where it may be nothing or where anything goes; everything else is JSON.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeGuard

_OPEN, _NAMED, _CLOSE = "<parameter=", ">\n", "\n</parameter>\n"
_END = "</function>"

_NARROWING = frozenset(
    {"pattern", "format", "minLength", "maxLength", "anyOf", "oneOf", "allOf", "not", "$ref"}
)
"""What a schema of a string may say that plain text is not held to."""


_SILENT = frozenset({"title", "description", "default", "examples", "deprecated"})
"""What a schema may say without a meaning for what fits it."""

Form = Literal["text", "nullable", "any", "json"]


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
        return _as_json(form_of(self._properties.get(name, True)), value)


def _as_json(form: Form, text: str) -> str:
    if form == "json" or (form == "nullable" and text == "null"):
        return text
    if form == "any":
        try:
            json.loads(text)
        except ValueError:
            pass
        else:
            return text
    return json.dumps(text, ensure_ascii=False)


def form_of(schema: object) -> Form:
    """How a parameter of this schema is written.

    text: as it is, a string. nullable: the same, but `null` is nothing. any: JSON if it is JSON,
    else a string. json: as JSON, which can be held to the schema.
    """
    if schema is True or (isinstance(schema, Mapping) and not schema.keys() - _SILENT):
        return "any"
    if is_plain(schema):
        return "text"
    if not isinstance(schema, Mapping) or schema.keys() & {"enum", "const"}:
        return "json"
    if schema.get("type") in (["string", "null"], ["null", "string"]):
        return "json" if schema.keys() & _NARROWING else "nullable"
    options = schema.get("anyOf")
    if isinstance(options, list) and len(options) == 2 and {"type": "null"} in options:
        [other] = [each for each in options if each != {"type": "null"}] or [None]
        is_text = is_plain(other) and texts_of(other) is None
        if is_text and not schema.keys() - _SILENT - {"anyOf"}:
            return "nullable"
    return "json"


def is_plain(schema: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether a parameter stands as plain text: its schema says a string, or which, and no more.

    A string that has to fit something else, such as a pattern, stands as JSON, which can be held
    to it.
    """
    if not isinstance(schema, Mapping) or schema.get("type") != "string":
        return False
    if schema.keys() & _NARROWING:
        return False
    return all(isinstance(text, str) and _CLOSE not in text for text in texts_of(schema) or ())


def texts_of(schema: Mapping[str, Any]) -> Sequence[Any] | None:
    """The texts that a plain parameter may be; None: any."""
    if "const" in schema:
        return [schema["const"]]
    texts = schema.get("enum")
    return texts if isinstance(texts, list) else None


def parameter(name: str) -> tuple[str, str]:
    """What stands before a parameter and behind it."""
    return f"{_OPEN}{name}{_NAMED}", _CLOSE


def written_parameters(values: Mapping[str, Any]) -> str:
    """Arguments as plain text."""
    return "".join(
        f"{before}{_text(values[name])}{behind}"
        for name in values
        for before, behind in (parameter(name),)
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

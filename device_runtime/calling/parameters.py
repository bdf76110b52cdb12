"""Arguments that are written one by one, and what they are as JSON.

Each stands between marks: `<parameter=NAME>`, a line break, what it is, a line break and
`</parameter>`. A string stands as it is, also where it may be nothing or where anything goes;
everything else is JSON. In Python's calls, `NAME=VALUE`, strings are JSON too, and what is true,
false or nothing may be said in Python's words.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from device_runtime.calling.json_end import JsonEnd

_NARROWING = frozenset(
    {"pattern", "format", "minLength", "maxLength", "anyOf", "oneOf", "allOf", "not", "$ref"}
)
"""What a schema of a string may say that plain text is not held to."""


_SILENT = frozenset({"title", "description", "default", "examples", "deprecated"})
"""What a schema may say without a meaning for what fits it."""

_COMBINING = frozenset({"enum", "const", "oneOf", "allOf", "not", "if", "$ref"})
"""What a schema may say of any value."""

_PYTHON = {"True": "true", "False": "false", "None": "null"}
_IN_PYTHON = {True: "True", False: "False", None: "None"}
_SCALAR = re.compile(r"[^,)\s]+(?=[,)])")
"""What is no string, object or list: it ends before what follows it."""

Form = Literal["text", "nullable", "any", "json"]


@dataclass(frozen=True, slots=True)
class Marks:
    """An argument is `open`, its name, `named`, what it is, and `close`."""

    open: str
    named: str
    close: str
    end: str
    """What stands behind the last one; the layout's tail begins with it."""
    between: str = ""
    """Between two of them."""
    is_plain: bool = True
    """Whether a string stands as it is, up to `close`; else all are JSON, and `close` is empty."""

    def around(self, name: str) -> tuple[str, str]:
        """What stands before an argument and behind it."""
        return f"{self.open}{name}{self.named}", self.close

    def written(self, values: Mapping[str, Any]) -> str:
        """Arguments as text."""
        texts = []
        for name, value in values.items():
            before, behind = self.around(name)
            texts.append(f"{before}{self._shown(value)}{behind}")
        return self.between.join(texts)

    def _shown(self, value: Any) -> str:
        if self.is_plain and isinstance(value, str):
            return value
        if not self.is_plain and (value is None or isinstance(value, bool)):
            return _IN_PYTHON[value]
        return json.dumps(value, ensure_ascii=False)


XML = Marks("<parameter=", ">\n", "\n</parameter>\n", "</function>")
GLM_LINES = Marks("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n", "</tool_call>")
GLM_TIGHT = Marks("<arg_key>", "</arg_key><arg_value>", "</arg_value>", "</tool_call>")
PYTHON = Marks("", "=", "", ")", between=", ", is_plain=False)


class MarkedArguments:
    """Reads the arguments of one call; they are told one by one, each when it is whole."""

    def __init__(self, marks: Marks, schema: Mapping[str, Any]) -> None:
        properties = schema.get("properties")
        self._properties = properties if isinstance(properties, Mapping) else {}
        self._marks = marks
        self._num = 0
        self._json = JsonEnd()
        self._num_scanned = 0
        """Of the text that is left, what the search for a value's end has seen."""

    def read(self, text: str) -> tuple[str, str, bool]:
        """What is certain of the arguments as JSON, the text that is left, and whether all came."""
        told = ""
        while (found := self._next(text)) is not None:
            name, value, text = found
            told += ", " if self._num else "{"
            told += f"{json.dumps(name, ensure_ascii=False)}: {value}"
            self._num += 1
        if text.startswith(self._marks.end):
            return told + ("}" if self._num else "{}"), text, True
        return told, text, False

    def _next(self, text: str) -> tuple[str, str, str] | None:
        """The next argument's name, what it is as JSON, and the text behind it."""
        marks = self._marks
        before = (marks.between if self._num else "") + marks.open
        if not text.startswith(before) or (not before and text.startswith(marks.end)):
            return None
        name, named, _ = text[len(before) :].partition(marks.named)
        begin = len(before) + len(name) + len(named)
        if not named:
            return None
        if not marks.is_plain:
            end = self._json_end(text, begin)
            return None if end is None else (name, _from_python(text[begin:end]), text[end:])
        end = text.find(marks.close, begin)
        if end < 0:
            return None
        form = form_of(self._properties.get(name, True), marks)
        return name, _as_json(form, text[begin:end]), text[end + len(marks.close) :]

    def _json_end(self, text: str, begin: int) -> int | None:
        """Where a value ends that begins here; the same value is asked about as it grows."""
        if text[begin : begin + 1] not in ('"', "{", "["):
            scalar = _SCALAR.match(text, begin)
            return None if scalar is None else scalar.end()
        seen = max(begin, self._num_scanned)
        length, is_over = self._json.find(text[seen:])
        self._num_scanned = seen + length
        if not is_over:
            return None
        end, self._num_scanned, self._json = self._num_scanned, 0, JsonEnd()
        return end


def _from_python(text: str) -> str:
    return _PYTHON.get(text, text)


def _as_json(form: Form, text: str) -> str:
    if form == "json" or (form == "nullable" and text == "null"):
        return text
    if form == "any" and _is_json(text):
        return text
    return json.dumps(text, ensure_ascii=False)


def _is_json(text: str) -> bool:
    """Whether a text is JSON as others read it: Python takes NaN and Infinity too."""
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"expected JSON, got {constant}")


def form_of(schema: object, marks: Marks = XML) -> Form:
    """How a parameter of this schema is written where strings stand as they are.

    text: as it is, a string. nullable: the same, but `null` is nothing. any: JSON if it is JSON,
    else a string. json: as JSON, which can be held to the schema.
    """
    if schema is True or (isinstance(schema, Mapping) and not schema.keys() - _SILENT):
        return "any"
    if is_plain(schema, marks):
        return "text"
    if not isinstance(schema, Mapping) or schema.keys() & {"enum", "const"}:
        return "json"
    if schema.get("type") in (["string", "null"], ["null", "string"]):
        return "json" if schema.keys() & _NARROWING else "nullable"
    options = schema.get("anyOf")
    if isinstance(options, list) and len(options) == 2 and {"type": "null"} in options:
        [other] = [each for each in options if each != {"type": "null"}] or [None]
        is_text = is_plain(other, marks) and texts_of(other) is None
        if is_text and not schema.keys() - _SILENT - {"anyOf"}:
            return "nullable"
    return "json"


def is_plain(schema: object, marks: Marks = XML) -> TypeGuard[Mapping[str, Any]]:
    """Whether a parameter stands as plain text: its schema says a string, or which, and no more.

    A string that has to fit something else, such as a pattern, stands as JSON, which can be held
    to it.
    """
    if not isinstance(schema, Mapping) or schema.get("type") != "string":
        return False
    if schema.keys() & _NARROWING:
        return False
    texts = texts_of(schema) or ()
    return all(isinstance(text, str) and marks.close not in text for text in texts)


def texts_of(schema: Mapping[str, Any]) -> Sequence[Any] | None:
    """The texts that a plain parameter may be; None: any."""
    if "const" in schema:
        return [schema["const"]]
    texts = schema.get("enum")
    return texts if isinstance(texts, list) else None


def python_words(schema: object) -> list[str]:
    """Python's words for what a schema allows of true, false and nothing, in place of JSON's.

    Where more is said of them than their types there are none: JSON's are held to all of it.
    """
    if schema is True:
        return list(_PYTHON)
    if not isinstance(schema, Mapping) or schema.keys() & _COMBINING:
        return []
    options = schema.get("anyOf")
    if isinstance(options, list):
        if schema.keys() - _SILENT - {"anyOf"}:
            return []
        allowed = {word for option in options for word in python_words(option)}
        return [word for word in _PYTHON if word in allowed]
    types = schema.get("type", ["boolean", "null"])
    types = types if isinstance(types, list) else [types]
    words = ["True", "False"] if "boolean" in types else []
    return [*words, "None"] if "null" in types else words

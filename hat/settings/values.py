"""The values a setting can have, and how text and TOML become them."""

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Union, get_args, get_origin

Value = str | int | float | bool | Path | tuple[str, ...] | None

# As vLLM reads them: small letters are powers of 1000, capital letters powers of 1024.
_MULTIPLIERS: Mapping[str, int] = MappingProxyType(
    {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
)
_TOKEN_COUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)([kmgKMG]?)")
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class ValueType:
    """What a setting accepts: a base type, and for a string the only values it may have."""

    base: type
    choices: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The type as a message names it."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        return {
            str: "text",
            int: "an integer",
            float: "a number",
            bool: "true or false",
            Path: "a path",
            tuple: "a list of texts",
        }[self.base]

    @property
    def metavar(self) -> str:
        """The type as `--help` shows it beside the flag."""
        if self.choices:
            return f"[{'|'.join(self.choices)}]"
        return {str: "TEXT", int: "N", float: "NUMBER", bool: "BOOL", Path: "PATH", tuple: "A,B"}[
            self.base
        ]


def value_type(annotation: object) -> ValueType:
    """The value type of a dataclass field's annotation; `None` beside it means "may be left out".

    Raises:
        TypeError: an annotation that no flag can fill.
    """
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not types.NoneType]
        if len(members) == 1:
            return value_type(members[0])
    if get_origin(annotation) is Literal:
        return ValueType(str, get_args(annotation))
    if annotation == tuple[str, ...]:
        return ValueType(tuple)
    if isinstance(annotation, type) and annotation in (str, int, float, bool, Path):
        return ValueType(annotation)
    raise TypeError(f"expected a setting of a plain type, got {annotation}")


def from_text(text: str, kind: ValueType, *, tokens: bool = False) -> Value:
    """The value that a flag's or an environment variable's text stands for.

    `tokens` allows 32k (32,000) and 32K (32,768) for integers.

    Raises:
        ValueError: the text is no such value; the message says what was expected.
    """
    if kind.base is int:
        return _token_count(text) if tokens else _number(text, int, kind)
    if kind.base is float:
        return _number(text, float, kind)
    if kind.base is bool:
        if text.lower() not in _TRUTH:
            raise _unexpected(kind, text)
        return _TRUTH[text.lower()]
    if kind.base is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return _from_string(text, kind, Path())


def from_toml(value: object, kind: ValueType, folder: Path, *, tokens: bool = False) -> Value:
    """The value that a TOML value stands for; relative paths start at the file's `folder`.

    Raises:
        ValueError: a value of another type; the message says what was expected.
    """
    if kind.base is bool and isinstance(value, bool):
        return value
    if kind.base is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind.base is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind.base is int and tokens and isinstance(value, str):
        return _token_count(value)
    if kind.base is tuple and isinstance(value, str):
        return (value,)
    if kind.base is tuple and isinstance(value, list):
        texts = tuple(part for part in value if isinstance(part, str))
        if len(texts) == len(value):
            return texts
    if kind.base in (str, Path) and isinstance(value, str):
        return _from_string(value, kind, folder)
    raise _unexpected(kind, value)


def _from_string(text: str, kind: ValueType, folder: Path) -> str | Path:
    if kind.base is Path:
        return folder / Path(text).expanduser()
    if kind.choices and text not in kind.choices:
        raise _unexpected(kind, text)
    return text


def _number(text: str, number: type[int] | type[float], kind: ValueType) -> int | float:
    try:
        return number(text)
    except ValueError:
        raise _unexpected(kind, text) from None


def _token_count(text: str) -> int:
    match = _TOKEN_COUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected a number of tokens such as 4096, 32k or 32K, got {text!r}")
    count = Decimal(match[1]) * _MULTIPLIERS[match[2]]
    if count != int(count):
        raise ValueError(f"expected a whole number of tokens, got {text!r}")
    return int(count)


def _unexpected(kind: ValueType, value: object) -> ValueError:
    return ValueError(f"expected {kind.words}, got {value!r}")

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

_WORDS: Mapping[type, tuple[str, str]] = MappingProxyType(
    {
        str: ("text", "TEXT"),
        int: ("an integer", "N"),
        float: ("a number", "NUMBER"),
        bool: ("true or false", "BOOL"),
        Path: ("a path", "PATH"),
        tuple: ("a list of texts", "A,B"),
    }
)
"""Each type as a message names it, and as `--help` shows it beside the flag."""

# As vLLM reads them: small letters are powers of 1000, capital letters powers of 1024.
_MULTIPLIERS: Mapping[str, int] = MappingProxyType(
    {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
)
_TOKEN_COUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)([kmgKMG]?)")
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class ValueType:
    """What a setting accepts."""

    base: type
    choices: tuple[str, ...] = ()
    """The only texts it may be."""
    tokens: bool = False
    """An integer that may be written 32k (32,000) or 32K (32,768)."""

    @property
    def words(self) -> str:
        """The type as a message names it."""
        return "one of " + ", ".join(self.choices) if self.choices else _WORDS[self.base][0]

    @property
    def metavar(self) -> str:
        """The type as `--help` shows it beside the flag."""
        if self.choices:
            return f"[{'|'.join(self.choices)}]"
        return "TOKENS" if self.tokens else _WORDS[self.base][1]


def value_type(annotation: object, *, tokens: bool = False) -> ValueType:
    """The value type of a dataclass field's annotation; `None` beside it means "may be left out".

    Raises:
        TypeError: an annotation that no flag can fill.
    """
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not types.NoneType]
        if len(members) == 1:
            return value_type(members[0], tokens=tokens)
    if get_origin(annotation) is Literal:
        return ValueType(str, get_args(annotation))
    base = tuple if annotation == tuple[str, ...] else annotation
    if isinstance(base, type) and base in _WORDS and annotation is not tuple:
        return ValueType(base, tokens=tokens)
    raise TypeError(f"expected a setting of a plain type, got {annotation}")


def from_text(text: str, kind: ValueType, folder: Path = Path()) -> Value:
    """The value that a text stands for; relative paths start at `folder`.

    Raises:
        ValueError: the text is no such value; the message says what was expected.
    """
    if kind.tokens:
        return _token_count(text)
    if kind.base is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind.base is Path:
        return folder / Path(text).expanduser()
    if kind.choices and text not in kind.choices:
        raise _unexpected(kind, text)
    try:
        value: Value = _TRUTH[text.lower()] if kind.base is bool else kind.base(text)
    except (KeyError, ValueError):
        raise _unexpected(kind, text) from None
    return value


def from_toml(value: object, kind: ValueType, folder: Path) -> Value:
    """The value that a TOML value stands for; relative paths start at the file's `folder`.

    Raises:
        ValueError: a value of another type; the message says what was expected.
    """
    base = kind.base
    if isinstance(value, str) and (base in (str, Path) or kind.tokens):
        return from_text(value, kind, folder)
    parts = [value] if isinstance(value, str) else value
    if base is tuple and isinstance(parts, list) and all(isinstance(part, str) for part in parts):
        return tuple(parts)
    # A truth value is an int for Python, and not for TOML.
    if isinstance(value, int | float) and type(value) in {base, int if base is float else base}:
        return float(value) if base is float else value
    raise _unexpected(kind, value)


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

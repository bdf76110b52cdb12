"""One setting as a user meets it: its names, what it takes, and how text and TOML become that."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

from process.addresses import without_user
from process.program.about import About

Value = str | int | float | bool | Path | tuple[str, ...] | None

TYPES: Mapping[type, tuple[str, str]] = MappingProxyType(
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
class Setting:
    """One field of a config dataclass."""

    name: str
    base: type
    """One of `TYPES`; a secret is the path of a file for the user."""
    choices: tuple[str, ...]
    """The only texts it may be, if any."""
    default: Value
    variables: tuple[str, ...]
    """The environment variables that hold its value, the most specific first."""
    about: About
    needed: bool = False
    """It has no default."""

    @property
    def key(self) -> str:
        """Its name in a TOML table; secrets are files there."""
        return f"{self.name}_file" if self.about.secret else self.name

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.key.replace("_", "-")

    @property
    def words(self) -> str:
        """What it takes, as a message names it."""
        return "one of " + ", ".join(self.choices) if self.choices else TYPES[self.base][0]

    @property
    def metavar(self) -> str:
        """What it takes, as `--help` shows it beside the flag."""
        if self.choices:
            return f"[{'|'.join(self.choices)}]"
        usual = "FILE" if self.about.secret else "TOKENS" if self.about.tokens else None
        return self.about.metavar or usual or TYPES[self.base][1]

    def from_text(self, text: str) -> Value:
        """The value that a text stands for.

        Raises:
            ValueError: the text is no such value; the message says what was expected.
        """
        if self.about.tokens:
            return token_count(text)
        # An empty text is a variable of a shell that nobody has set, and not this folder.
        if self.base in (tuple, Path) and not text.strip(" ,"):
            raise self._unexpected(text)
        if self.base is tuple:
            return tuple(part.strip() for part in text.split(",") if part.strip())
        if self.base is Path:
            return Path(text).expanduser()
        if self.choices and text not in self.choices:
            raise self._unexpected(text)
        try:
            value: Value = _TRUTH[text.lower()] if self.base is bool else self.base(text)
        except (KeyError, ValueError):
            raise self._unexpected(text) from None
        return value

    def from_toml(self, raw: object, folder: Path) -> Value:
        """The value that a TOML value stands for; relative paths start at the file's `folder`.

        Raises:
            ValueError: a value of another type; the message says what was expected.
        """
        base = self.base
        if isinstance(raw, str) and (base in (str, Path) or self.about.tokens):
            value = self.from_text(raw)
            return folder / value if isinstance(value, Path) else value
        parts = [raw] if isinstance(raw, str) else raw
        if base is tuple and isinstance(parts, list) and all(isinstance(p, str) for p in parts):
            return tuple(parts)
        # A truth value is an int for Python, and not for TOML.
        if isinstance(raw, int | float) and type(raw) in {base, int if base is float else base}:
            return float(raw) if base is float else raw
        raise self._unexpected(raw)

    def validated(self, value: Value) -> Value:
        """The value itself.

        Raises:
            ValueError: it is out of range.
        """
        about = self.about
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise ValueError(f"expected a finite number, got {value}")
            if about.minimum is not None and value < about.minimum:
                raise ValueError(f"expected at least {about.minimum:g}, got {value}")
            if about.maximum is not None and value > about.maximum:
                raise ValueError(f"expected at most {about.maximum:g}, got {value}")
        if about.check is not None and (expected := about.check(value)) is not None:
            got = ",".join(map(str, value)) if isinstance(value, tuple) else value
            got = without_user(got) if isinstance(got, str) else got
            raise ValueError(f"expected {expected}, got {got!r}")
        return value

    def _unexpected(self, value: object) -> ValueError:
        return ValueError(f"expected {self.words}, got {value!r}")


def token_count(text: str) -> int:
    """The number that a text such as `4096`, `32k` or `32K` stands for.

    Raises:
        ValueError: it is none.
    """
    match = _TOKEN_COUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected a number of tokens such as 4096, 32k or 32K, got {text!r}")
    count = Decimal(match[1]) * _MULTIPLIERS[match[2]]
    if count != int(count):
        raise ValueError(f"expected a whole number of tokens, got {text!r}")
    return int(count)

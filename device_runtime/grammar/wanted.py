"""What answers can be held to, as clients say it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

JsonSchemaText = Mapping[str, Any] | bool
"""A JSON schema as a value: an object, or true for anything and false for nothing."""


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON text that fits a schema. `whitespace` between its parts is a pattern; None: as
    `json.dumps` writes it, a space behind each comma and colon and nothing else. What a lenient
    one says that cannot be held to is passed over."""

    schema: JsonSchemaText
    whitespace: str | None = None
    is_lenient: bool = False


@dataclass(frozen=True, slots=True)
class Regex:
    """A text that a regular expression matches as a whole, in the syntax of Rust's `regex`."""

    pattern: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of some texts."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """A text by a written grammar, in Lark's syntax or llama.cpp's GBNF."""

    text: str


@dataclass(frozen=True, slots=True)
class Lark:
    """A grammar that this program wrote, with llguidance's additions to Lark's syntax."""

    text: str


@dataclass(frozen=True, slots=True)
class Thoughts:
    """Any text before what is wanted, between marks. `begin` None: the prompt has it."""

    begin: str | None
    end: str


Wanted = Json | Regex | OneOf | Written | Lark

ANY_OBJECT = Json({"type": "object"})
"""What `json_object` means."""

"""Texts: enums and constants, lengths, patterns, formats."""

from collections.abc import Mapping
from typing import Any

_ENUMS = {
    "sizes": ["small", "medium", "large"],
    "one": ["only"],
    "yes or no": ["yes", "no"],
    "beginning alike": ["in", "inn", "inner", "innermost"],
    "countries": ["DE", "FR", "GB", "US", "JP", "BR"],
    "sentences": ["The cat sat down.", "The cat ran away.", "A dog barked."],
    "accents": ["café", "naïve", "Übung", "señor"],
    "other scripts": ["привет", "你好", "שלום", "नमस्ते"],
    "emoji": ["🙂", "🙁", "👩‍👩‍👧"],
    "quotes": ['say "hi"', "it's", "back\\slash", "new\nline", "tab\there"],
    "empty among them": ["", " ", "a"],
    "slashes": ["text/plain", "application/json", "image/png"],
    "many": [f"option {number}" for number in range(60)],
    "marks of markup": ["<b>", "</b>", "&amp;", "{}", "[]"],
    "words of JSON": ["null", "true", "false", "0"],
    "kinds mixed": ["auto", 5, None, True, 2.5],
}

_CONSTANTS = {
    "text": "fixed",
    "text with quotes": 'a "b" c',
    "unicode": "Zürich → Genève",
    "number": 42,
    "negative": -7,
    "null": None,
    "true": True,
    "list": [1, "two", None],
    "object": {"a": 1, "b": {"c": [True]}},
    "long": "This sentence is forced from its first word to its last one, whatever a model says.",
}

_LENGTHS = {
    "at most 5": {"maxLength": 5},
    "exactly 3": {"minLength": 3, "maxLength": 3},
    "8 to 16": {"minLength": 8, "maxLength": 16},
    "none": {"maxLength": 0},
    "1 to 40": {"minLength": 1, "maxLength": 40},
    "any": {},
    "at least 10": {"minLength": 10},
}

_PATTERNS = {
    "postal code": r"^\d{5}$",
    "date": r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$",
    "time": r"^([01]\d|2[0-3]):[0-5]\d$",
    "hex colour": r"^#[0-9a-fA-F]{6}$",
    "slug": r"^[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,3}$",
    "semantic version": r"^(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})$",
    "phone": r"^\+[1-9]\d{6,14}$",
    "phone of the docs": r"^(\([0-9]{3}\))?[0-9]{3}-[0-9]{4}$",
    "e-mail": r"^[a-z]{1,10}@[a-z]{1,10}\.(com|org|net)$",
    "currency": r"^[A-Z]{3}$",
    "licence plate": r"^[A-Z]{1,3}-[A-Z]{1,2} [1-9]\d{0,3}$",
    "hash": r"^[0-9a-f]{40}$",
    "coordinates": r"^-?\d{1,2}\.\d{2},-?\d{1,3}\.\d{2}$",
    "title": r"^[A-Z][a-z]{1,9}( [A-Z][a-z]{1,9}){0,2}$",
    "not anchored": r"[0-9]{2}",
    "beginning only": r"^ab",
    "end only": r"yz$",
    "alternatives": r"^(red|green|blue|[0-9]{1,3})$",
    "letters with accents": r"^[a-zà-ÿ]{2,6}$",
    "no spaces": r"^\S{1,12}$",
    "identifier": r"^[A-Za-z_][A-Za-z0-9_]{0,15}$",
    "path": r"^(/[a-z0-9]{1,6}){1,4}$",
    "quotes inside": r'^"[a-z]{1,5}"$',
    "backslash inside": r"^C:\\[a-z]{1,8}$",
    "order number": r"^ORD-\d{4}-[A-Z]{2}$",
    "roman": r"^(X{0,3})(IX|IV|V?I{0,3})$",
}

_FORMATS = ("date", "time", "date-time", "duration", "uuid", "ipv4", "ipv6", "email", "hostname")

STRINGS: Mapping[str, Any] = {
    **{f"enum of {name}": {"enum": values} for name, values in _ENUMS.items()},
    **{f"constant {name}": {"const": value} for name, value in _CONSTANTS.items()},
    **{f"length {name}": {"type": "string", **bounds} for name, bounds in _LENGTHS.items()},
    **{
        f"pattern {name}": {"type": "string", "pattern": pattern}
        for name, pattern in _PATTERNS.items()
    },
    **{f"format {name}": {"type": "string", "format": name} for name in _FORMATS},
    "pattern and length": {"type": "string", "pattern": "^[ab]+$", "minLength": 3, "maxLength": 9},
    "typed enum": {"type": "string", "enum": ["north", "south", "east", "west"]},
    "enum of a type that leaves some": {"type": "string", "enum": ["a", 1, "b", None]},
}
"""By name."""

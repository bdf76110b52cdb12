"""Lists: their items, their lengths, tuples, lists of lists."""

from collections.abc import Mapping
from typing import Any

_ITEMS: Mapping[str, Any] = {
    "digits": {"type": "integer", "minimum": 0, "maximum": 9},
    "booleans": {"type": "boolean"},
    "names": {"type": "string", "maxLength": 8},
    "colours": {"enum": ["red", "green", "blue"]},
    "points": {
        "type": "object",
        "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
        "required": ["x", "y"],
        "additionalProperties": False,
    },
    "codes": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{2}$"},
}

_LENGTHS: Mapping[str, Mapping[str, int]] = {
    "exactly two": {"minItems": 2, "maxItems": 2},
    "one to three": {"minItems": 1, "maxItems": 3},
    "up to four": {"maxItems": 4},
    "any number": {},
}

_DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}

ARRAYS: Mapping[str, Any] = {
    **{
        f"{length} of {items}": {"type": "array", "items": schema, **bounds}
        for items, schema in _ITEMS.items()
        for length, bounds in _LENGTHS.items()
    },
    "empty": {"type": "array", "maxItems": 0},
    "anything, two": {"type": "array", "minItems": 2, "maxItems": 2},
    "matrix": {
        "type": "array",
        "minItems": 2,
        "maxItems": 2,
        "items": {"type": "array", "minItems": 3, "maxItems": 3, "items": _DIGIT},
    },
    "pair": {
        "type": "array",
        "prefixItems": [{"type": "string", "maxLength": 6}, _DIGIT],
        "items": False,
        "minItems": 2,
    },
    "tuple with a rest": {
        "type": "array",
        "prefixItems": [{"const": "sum"}],
        "items": _DIGIT,
        "minItems": 2,
        "maxItems": 4,
    },
    "tuple of draft 7": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [{"type": "boolean"}, {"type": "null"}],
        "additionalItems": False,
        "minItems": 2,
    },
    "in lists in lists": {
        "type": "array",
        "maxItems": 2,
        "items": {
            "type": "array",
            "maxItems": 2,
            "items": {"type": "array", "maxItems": 2, "items": {"type": "boolean"}},
        },
    },
    "of unions": {
        "type": "array",
        "minItems": 1,
        "maxItems": 4,
        "items": {"anyOf": [_DIGIT, {"type": "null"}, {"enum": ["x", "y"]}]},
    },
    "rows of a table": {
        "type": "array",
        "minItems": 2,
        "maxItems": 3,
        "items": {
            "type": "array",
            "prefixItems": [{"type": "string", "pattern": "^[a-z]{3}$"}, {"type": "boolean"}],
            "items": False,
            "minItems": 2,
        },
    },
}
"""By name."""

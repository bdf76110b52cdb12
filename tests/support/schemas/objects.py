"""Objects: what is required, what may be left out, names by pattern, depth."""

from collections.abc import Mapping, Sequence
from typing import Any

_SHORT = {"type": "string", "maxLength": 10}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 20}
_FLAG = {"type": "boolean"}


def closed(properties: Mapping[str, Any], required: Sequence[str] | None = None) -> dict[str, Any]:
    """An object of these properties and no others; all are required unless said otherwise."""
    names = list(properties) if required is None else list(required)
    return {
        "type": "object",
        "properties": dict(properties),
        "required": names,
        "additionalProperties": False,
    }


def _deep(depth: int) -> dict[str, Any]:
    schema = closed({"leaf": _FLAG})
    for level in range(depth):
        schema = closed({f"level{level}": schema})
    return schema


_THREE = {"name": _SHORT, "count": _COUNT, "open": _FLAG}
_REQUIRED = {
    "all": ("name", "count", "open"),
    "first": ("name",),
    "last": ("open",),
    "none": (),
    "order of its own": ("open", "name"),
}
_NAMES = {
    "with spaces": "first name",
    "with quotes": 'the "best"',
    "with a dollar": "$price",
    "with a slash": "a/b~c",
    "empty": "",
    "of another script": "имя",
    "emoji": "🎈",
    "long": "a_rather_long_name_of_a_property_that_nobody_would_like_to_type",
    "with dots": "a.b.c",
    "with a backslash": "a\\b",
    "of a keyword": "properties",
    "of a reference": "$ref_like",
}

OBJECTS: Mapping[str, Any] = {
    **{f"required {name}": closed(_THREE, names) for name, names in _REQUIRED.items()},
    **{f"named {name}": closed({key: _FLAG, "n": _COUNT}) for name, key in _NAMES.items()},
    **{f"{depth} deep": _deep(depth) for depth in (1, 3, 6, 12)},
    **{
        f"{number} properties": closed({f"field_{place}": _FLAG for place in range(number)})
        for number in (1, 8, 20)
    },
    "empty": closed({}),
    "15 that may be left out": closed({f"option_{place}": _FLAG for place in range(15)}, ()),
    "open, with one known": {
        "type": "object",
        "properties": {"id": _COUNT},
        "required": ["id"],
        "additionalProperties": {"type": "boolean"},
        "maxProperties": 1,
    },
    "a map of numbers": {"type": "object", "additionalProperties": _COUNT, "maxProperties": 3},
    "names by pattern": {
        "type": "object",
        "patternProperties": {"^x_[a-z]{1,3}$": _COUNT},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 3,
    },
    "one of its properties": {
        **closed({"a": _FLAG, "b": _COUNT, "c": _SHORT}, ()),
        "minProperties": 1,
        "maxProperties": 1,
    },
    "at least one property": {**closed({"a": _FLAG, "b": _COUNT}, ()), "minProperties": 1},
    "required but not described": {
        "type": "object",
        "required": ["id"],
        "additionalProperties": {"type": "integer", "minimum": 1, "maximum": 9},
        "maxProperties": 1,
    },
    "a default and a title": closed(
        {"title": {"title": "Title", "description": "Shown.", "default": "none", **_SHORT}}
    ),
    "objects in a list in an object": closed(
        {"rows": {"type": "array", "minItems": 1, "maxItems": 2, "items": closed(_THREE)}}
    ),
    "without a type": {
        "properties": {"a": _FLAG},
        "required": ["a"],
        "additionalProperties": False,
        "type": "object",
    },
    "unknown keywords": {**closed({"a": _FLAG}), "x-order": 3, "nullable": True, "example": {}},
    "two alike": closed({"from": closed(_THREE), "to": closed(_THREE)}),
    "constants beside choices": closed(
        {"version": {"const": 1}, "kind": {"const": "event"}, "ok": _FLAG}
    ),
}
"""By name."""

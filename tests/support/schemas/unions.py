"""Unions: several types, any of, one of, all of."""

from collections.abc import Mapping
from typing import Any

from tests.support.schemas.objects import closed
from tests.support.schemas.references import ref

_WORD = {"type": "string", "pattern": "^[a-z]{1,8}$"}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 99}
_CAT = closed({"kind": {"const": "cat"}, "lives": {"type": "integer", "minimum": 1, "maximum": 9}})
_DOG = closed({"kind": {"const": "dog"}, "tricks": {"type": "boolean"}})
_FISH = closed({"kind": {"enum": ["carp", "eel"]}, "length": _COUNT})

_TYPES = (
    ("integer", "null"),
    ("boolean", "null"),
)

_ANY_OF: Mapping[str, Any] = {
    "number or nothing": [_COUNT, {"type": "null"}],
    "word or number": [_WORD, _COUNT],
    "word or list of words": [_WORD, {"type": "array", "items": _WORD, "maxItems": 2}],
    "two objects": [closed({"a": _COUNT}), closed({"b": _WORD})],
    "objects that begin alike": [closed({"a": _COUNT}), closed({"a": _COUNT, "b": _WORD})],
    "cat or dog": [_CAT, _DOG],
    "overlapping bounds": [
        {"type": "integer", "minimum": 0, "maximum": 10},
        {"type": "integer", "minimum": 5, "maximum": 20},
    ],
    "overlapping enums": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}],
    "one that cannot be": [False, _COUNT],
    "lists of different things": [
        {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        {"type": "array", "items": {"type": "null"}, "maxItems": 2},
    ],
    "five": [_WORD, _COUNT, {"type": "boolean"}, {"type": "null"}, closed({"a": _COUNT})],
}

_ONE_OF: Mapping[str, Any] = {
    "types": [{"type": "boolean"}, _COUNT],
    "constants": [{"const": "a"}, {"const": "b"}, {"const": 3}],
    "objects by kind": [_CAT, _DOG, _FISH],
    "a definition or nothing": [{"type": "null"}, _COUNT],
}

_SHARED = {"$defs": {"Cat": _CAT, "Dog": _DOG, "Fish": _FISH}}

UNIONS: Mapping[str, Any] = {
    **{f"types {', '.join(names)}": {"type": list(names)} for names in _TYPES},
    **{f"any of, {name}": {"anyOf": options} for name, options in _ANY_OF.items()},
    **{
        f"any of, {name}, in an object": closed({"value": {"anyOf": options}})
        for name, options in _ANY_OF.items()
    },
    **{f"one of, {name}": {"oneOf": options} for name, options in _ONE_OF.items()},
    "pydantic, by a discriminator": {
        **_SHARED,
        **closed(
            {
                "pet": {
                    "discriminator": {
                        "mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"},
                        "propertyName": "kind",
                    },
                    "oneOf": [ref("Cat"), ref("Dog"), ref("Fish")],
                }
            }
        ),
    },
    "pydantic, a list by a discriminator": {
        **_SHARED,
        "type": "array",
        "minItems": 1,
        "maxItems": 2,
        "items": {"oneOf": [ref("Cat"), ref("Dog")]},
    },
    "any of definitions": {**_SHARED, "anyOf": [ref("Cat"), ref("Fish")]},
    "zod, optional and nullable": closed(
        {"a": {"anyOf": [_WORD, {"type": "null"}]}, "b": {"type": ["integer", "null"]}}, ("a",)
    ),
    "all of, bounds": {"allOf": [{"type": "integer"}, {"minimum": 2}, {"maximum": 6}]},
    "all of, objects": {
        "type": "object",
        "allOf": [
            {"properties": {"a": _COUNT}, "required": ["a"]},
            {"properties": {"b": _WORD}, "required": ["b"]},
        ],
        "properties": {"a": True, "b": True},
        "additionalProperties": False,
    },
    "all of, one": {"allOf": [_CAT]},
    "any of beside properties": {
        "type": "object",
        "properties": {"id": _COUNT, "mail": _WORD, "phone": _COUNT},
        "additionalProperties": False,
        "required": ["id"],
        "anyOf": [{"required": ["mail"]}, {"required": ["phone"]}],
    },
    "all of, enums": {"allOf": [{"enum": ["a", "b", "c"]}, {"enum": ["b", "c", "d"]}]},
    "any of in any of": {"anyOf": [{"anyOf": [_COUNT, {"type": "null"}]}, {"type": "boolean"}]},
    "one of beside a type": {"type": "integer", "oneOf": [{"maximum": 3, "minimum": 0}]},
}
"""By name."""

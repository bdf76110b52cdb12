"""References: shared definitions, recursion, pointers."""

from collections.abc import Mapping
from typing import Any

from tests.support.schemas.objects import closed

_WORD = {"type": "string", "pattern": "^[a-z]{1,8}$"}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 99}


def ref(name: str, where: str = "$defs") -> dict[str, str]:
    """A reference to a definition."""
    return {"$ref": f"#/{where}/{name}"}


def _chain(length: int) -> dict[str, Any]:
    """Definitions, each of which holds the next."""
    shared = {f"d{place}": closed({"next": ref(f"d{place + 1}")}) for place in range(length)}
    return {"$defs": {**shared, f"d{length}": {"type": "boolean"}}, **ref("d0")}


_TREE = {
    "$defs": {
        "node": closed(
            {"name": _WORD, "children": {"type": "array", "maxItems": 1, "items": ref("node")}}
        )
    },
    **ref("node"),
}

REFERENCES: Mapping[str, Any] = {
    **{f"chain of {length}": _chain(length) for length in (1, 2, 5, 9)},
    "definitions of draft 7": {
        "definitions": {"word": _WORD},
        **closed({"first": ref("word", "definitions"), "second": ref("word", "definitions")}),
    },
    "pydantic, nested": {
        "$defs": {"Address": {"title": "Address", **closed({"street": _WORD, "number": _COUNT})}},
        "title": "Person",
        **closed({"name": {"title": "Name", **_WORD}, "address": ref("Address")}),
    },
    "pydantic, enum": {
        "$defs": {"Colour": {"enum": ["red", "blue"], "title": "Colour", "type": "string"}},
        **closed({"colour": ref("Colour"), "other": ref("Colour")}),
    },
    "with a description beside": {
        "$defs": {"word": _WORD},
        **closed({"a": {**ref("word"), "description": "One word."}}),
    },
    "with a bound beside": {
        "$defs": {"number": {"type": "integer", "minimum": 0}},
        **closed({"a": {**ref("number"), "maximum": 12}}),
    },
    "list of a definition": {
        "$defs": {"item": closed({"sku": _WORD, "count": _COUNT})},
        "type": "array",
        "items": ref("item"),
        "minItems": 1,
        "maxItems": 2,
    },
    "optional definition": {
        "$defs": {"unit": {"enum": ["kg", "g"]}},
        **closed({"weight": _COUNT, "unit": {"anyOf": [ref("unit"), {"type": "null"}]}}),
    },
    "to a property": closed({"a": _COUNT, "b": {"$ref": "#/properties/a"}}),
    "to a name with a slash": {
        "$defs": {"a/b": _COUNT, "c~d": _WORD},
        **closed({"x": {"$ref": "#/$defs/a~1b"}, "y": {"$ref": "#/$defs/c~0d"}}),
    },
    "to a name with a space": {
        "$defs": {"two words": _COUNT},
        **closed({"x": {"$ref": "#/$defs/two%20words"}}),
    },
    "tree": _TREE,
    "linked list": {
        "$defs": {
            "link": closed({"value": _COUNT, "next": {"anyOf": [{"type": "null"}, ref("link")]}})
        },
        **ref("link"),
    },
    "two that call each other": {
        "$defs": {
            "ping": closed({"pong": {"anyOf": [{"type": "null"}, ref("pong")]}}),
            "pong": closed({"ping": {"anyOf": [{"type": "null"}, ref("ping")]}}),
        },
        **ref("ping"),
    },
    "to the root": closed({"name": _WORD, "child": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}),
    "expression": {
        "$defs": {
            "expression": {
                "anyOf": [
                    _COUNT,
                    {
                        "type": "array",
                        "prefixItems": [{"enum": ["+", "-"]}, ref("expression"), _COUNT],
                        "items": False,
                        "minItems": 3,
                    },
                ]
            }
        },
        **ref("expression"),
    },
    "all of a definition and more": {
        "$defs": {"named": {"type": "object", "properties": {"name": _WORD}, "required": ["name"]}},
        "allOf": [
            ref("named"),
            {"type": "object", "properties": {"size": _COUNT}, "required": ["size"]},
        ],
        "type": "object",
        "properties": {"name": True, "size": True},
        "additionalProperties": False,
    },
    "a definition that nobody needs": {
        "$defs": {"unused": {"type": "string"}, "word": _WORD},
        **closed({"a": ref("word")}),
    },
    "a reference to a reference": {
        "$defs": {"a": ref("b"), "b": ref("c"), "c": _COUNT},
        **closed({"x": ref("a")}),
    },
    "many users of one": {
        "$defs": {"flag": {"type": "boolean"}},
        **closed({name: ref("flag") for name in ("one", "two", "three", "four", "five")}),
    },
}
"""By name."""

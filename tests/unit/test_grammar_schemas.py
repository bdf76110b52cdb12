"""Unions whose options exclude one another, and what is left alone."""

import json

import pytest

from device_runtime.grammar.schemas import parts, pointer, united


def animal(kind, **more):
    kinds = {"const": kind} if isinstance(kind, str) else {"enum": kind}
    return {"type": "object", "properties": {"kind": kinds}, "required": ["kind"], **more}


SHARED = {
    "cat": animal("cat"),
    "dog": animal("dog"),
    "fish": animal(["carp", "eel"]),
    "eel": animal("eel"),
    "any": {"type": "object", "properties": {"kind": {"type": "string"}}, "required": ["kind"]},
    "loop": {"$ref": "#/$defs/loop"},
    "other": {"$ref": "#/$defs/dog"},
    "number": {"type": "integer"},
}


def refs(*names):
    return [{"$ref": f"#/$defs/{name}"} for name in names]


@pytest.mark.parametrize(
    ("options", "exclude"),
    [
        (refs("cat", "dog"), True),
        (refs("cat", "other", "fish"), True),
        ([*refs("cat", "dog"), {"type": "null"}], True),
        ([*refs("cat", "number"), {"type": ["string", "boolean"]}], True),
        (refs("cat"), True),
        (refs("fish", "eel"), False),
        (refs("cat", "cat"), False),
        (refs("cat", "any"), False),
        (refs("cat", "loop"), False),
        (refs("cat", "nobody"), False),
        ([*refs("number"), {"type": "number"}], False),
        ([{"type": "null"}, {"type": ["null", "boolean"]}], False),
        ([{"type": "null"}, {"const": None}], False),
        ([{"type": "null"}, {"type": ["object", "string"]}], False),
        ([animal("cat"), {**animal("dog"), "required": []}], False),
        ([animal("cat"), {**animal("dog"), "type": ["object", "null"]}, {"type": "null"}], False),
        ([{"properties": {"kind": {"const": "cat"}}, "required": ["kind"]}, animal("dog")], False),
        ([True, False], False),
        ([{"$ref": 5}, {"$ref": "http://elsewhere/#/x"}], False),
        ({}, False),
        ([{"type": "object", "required": "kind", "properties": []}] * 2, False),
        ([animal([1, 2]), animal([True, 3])], False),
    ],
)
def test_one_of_is_any_of_where_the_options_exclude_one_another(options, exclude):
    schema = {"$defs": SHARED, "type": "array", "items": {"oneOf": options, "title": "x"}}
    before = json.dumps(schema)
    changed = united(schema)
    assert json.dumps(schema) == before
    assert changed["items"] == {("anyOf" if exclude else "oneOf"): options, "title": "x"}
    assert changed["$defs"] == SHARED


def test_data_in_a_schema_is_no_schema():
    union = {"oneOf": [{"type": "null"}, {"type": "boolean"}]}
    schema = {"const": union, "enum": [union], "default": union, "properties": {"oneOf": union}}
    changed = united(schema)
    assert changed["const"] == changed["enum"][0] == changed["default"] == union
    assert list(changed["properties"]["oneOf"]) == ["anyOf"]


def test_unions_are_found_however_deep_and_in_lists():
    schema = union = {"oneOf": [{"type": "null"}, {"type": "boolean"}]}
    for _ in range(50):
        schema = {"prefixItems": [True, {"additionalProperties": schema}]}
    changed = united(schema)
    assert json.dumps(changed) == json.dumps(schema).replace("oneOf", "anyOf")
    assert "oneOf" in union
    for _ in range(5000):
        schema = {"items": schema}
    united(schema)


def test_an_any_of_beside_it_is_kept():
    schema = {"anyOf": [{"type": "null"}], "oneOf": [{"type": "null"}, {"type": "boolean"}]}
    assert united(schema) == schema


def test_parts_are_named_by_pointers():
    schema = {
        "properties": {"a/b": {"type": "null"}, "c": True},
        "items": [{}, {"not": {}}],
        "const": {"items": {}},
        "$defs": 5,
        "anyOf": "x",
    }
    assert [pointer(path) for path, _ in parts(schema)] == [
        "#/properties/a~1b",
        "#/items/0",
        "#/items/1",
    ]
    assert pointer(()) == "#"

"""Parameters as plain text, and what they are as JSON."""

import json
from typing import Any

import pytest

from device_runtime.calling.parameters import XML, MarkedArguments, form_of


@pytest.mark.parametrize(
    ("schema", "form"),
    [
        ({"type": "string"}, "text"),
        ({"type": "string", "enum": ["a", "b"]}, "text"),
        ({"type": "string", "enum": ["a\n</parameter>\n"]}, "json"),
        ({"type": "string", "pattern": "a+"}, "json"),
        ({"type": ["string", "null"]}, "nullable"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}, "nullable"),
        ({"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]}, "json"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "json"),
        ({"anyOf": [{"type": "null"}, {"type": "null"}]}, "json"),
        ({"type": ["string", "null"], "enum": ["a", None]}, "json"),
        ({"type": "integer"}, "json"),
        ({"description": "whatever"}, "any"),
        (True, "any"),
        (False, "json"),
        ({"$ref": "#/$defs/X"}, "json"),
    ],
)
def test_a_string_is_plain_where_plain_text_can_be_held_to_its_schema(
    schema: Any, form: str
) -> None:
    assert form_of(schema) == form


def test_values_are_read_as_their_schemas_say() -> None:
    properties = {
        "text": {"type": "string"},
        "maybe": {"type": ["string", "null"]},
        "number": {"type": "number"},
        "any": {},
        "free": {},
        "größe": {"type": "string", "enum": ["groß", "1"]},
    }
    values = {"text": "1", "maybe": None, "number": 2.5, "any": [1], "free": "a b", "größe": "1"}
    reader = MarkedArguments(XML, {"properties": properties})
    told, left, is_over = reader.read(XML.written(values) + "</function>")
    assert (json.loads(told), left, is_over) == (values, "</function>", True)

"""What an answer is to be held to, in the words of OpenAI's API, vLLM's and llama.cpp's."""

from collections.abc import Iterator
from typing import Annotated, Any

from msgspec import Meta, Struct

from device_runtime.api.errors import invalid, unsupported
from device_runtime.api.request.json_body import json_within
from device_runtime.grammar.wanted import ANY_OBJECT, Json, OneOf, Regex, Wanted, Written

MAX_CHOICES = 1024

_Choices = Annotated[
    list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=MAX_CHOICES)
]


class JsonSchemaFormat(Struct, frozen=True):
    """OpenAI's wrapping of a schema. `strict` or not, the answer fits it."""

    name: str | None = None
    description: str | None = None
    schema: Any = None
    strict: bool | None = None


class ResponseFormat(Struct, frozen=True):
    """`response_format`; beside `json_object` llama.cpp and others allow a schema."""

    type: str
    json_schema: JsonSchemaFormat | None = None
    schema: Any = None


class StructuredOutputs(Struct, frozen=True):
    """vLLM's field, one kind at a time."""

    json: Any = None
    regex: str | None = None
    choice: _Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Any = None
    whitespace_pattern: str | None = None


class FormatFields(Struct, frozen=True, kw_only=True):
    """All fields that say what an answer is to be."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: _Choices | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    grammar: str | None = None
    json_schema: Any = None


FREE_FIELDS = frozenset({"response_format", "structured_outputs", "guided_json", "json_schema"})
"""Those with a schema in them, which is left as it came."""


def wanted_of(fields: FormatFields) -> tuple[str, Wanted] | None:
    """What the answer is to be and the field that says so; None: any text.

    Raises:
        ApiError: 400, a field that says nothing, or several that do.
    """
    found = list(_said(fields))
    if len(found) > 1:
        names = ", ".join(name.partition(".")[0] for name, _ in found)
        message = f"expected one field that says what the answer is to be, got {names}"
        raise invalid(found[1][0].partition(".")[0], message)
    return found[0] if found else None


def _said(fields: FormatFields) -> Iterator[tuple[str, Wanted]]:
    if fields.response_format is not None:
        yield from _of_response_format(fields.response_format)
    if fields.structured_outputs is not None:
        yield from _of_structured_outputs(fields.structured_outputs)
    if fields.guided_json is not None:
        space = fields.guided_whitespace_pattern
        yield "guided_json", _json(fields.guided_json, "guided_json", space)
    if fields.guided_regex is not None:
        yield "guided_regex", Regex(fields.guided_regex)
    if fields.guided_choice is not None:
        yield "guided_choice", OneOf(tuple(fields.guided_choice))
    if fields.guided_grammar is not None:
        yield "guided_grammar", Written(fields.guided_grammar)
    if fields.grammar:
        yield "grammar", Written(fields.grammar)
    if fields.json_schema not in (None, {}):
        yield "json_schema", _json(fields.json_schema, "json_schema")


def _of_response_format(given: ResponseFormat) -> Iterator[tuple[str, Wanted]]:
    match given.type:
        case "text":
            return
        case "json_object" if given.schema is None:
            yield "response_format", ANY_OBJECT
        case "json_object":
            where = "response_format.schema"
            yield where, _json(given.schema, where)
        case "json_schema":
            where = "response_format.json_schema"
            if given.json_schema is None:
                raise invalid(where, f"{where}: this field is required", code="missing_field")
            where += ".schema"
            if given.json_schema.schema is None:
                raise invalid(where, f"{where}: this field is required", code="missing_field")
            yield where, _json(given.json_schema.schema, where)
        case other:
            came = f"expected text, json_object or json_schema, got {other[:40]!r}"
            raise invalid("response_format.type", f"response_format.type: {came}")


def _of_structured_outputs(given: StructuredOutputs) -> Iterator[tuple[str, Wanted]]:
    name = "structured_outputs"
    if given.structural_tag is not None:
        raise unsupported(f"{name}.structural_tag", f"{name}.structural_tag is not supported here")
    if given.json is not None:
        yield f"{name}.json", _json(given.json, f"{name}.json", given.whitespace_pattern)
    if given.regex is not None:
        yield f"{name}.regex", Regex(given.regex)
    if given.choice is not None:
        yield f"{name}.choice", OneOf(tuple(given.choice))
    if given.grammar is not None:
        yield f"{name}.grammar", Written(given.grammar)
    if given.json_object:
        yield f"{name}.json_object", ANY_OBJECT


def _json(given: Any, where: str, whitespace: str | None = None) -> Json:
    """A schema as a value, or as a text of JSON, as vLLM allows."""
    schema = given
    if isinstance(given, str):
        try:
            schema = json_within(given)
        except ValueError as error:
            raise invalid(
                where, f"{where}: expected a JSON schema, got no JSON: {error}"
            ) from error
    if not isinstance(schema, dict | bool):
        came = type(given).__name__
        raise invalid(where, f"{where}: expected a JSON schema (an object), got {came}")
    return Json(schema, whitespace)

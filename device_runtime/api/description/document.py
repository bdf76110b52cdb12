"""The OpenAPI description of what is served, from the tables of routes and the types in them."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from device_runtime.api.description.table import JSON, Api, Route

DESCRIPTION = web.AppKey("description", bytes)
"""The document as JSON, made once."""

_ANY_REQUEST_ERRORS = (403, 417, 500)
_BODY_ERRORS = (400, 408, 413, 415)
_KEY_ERROR = 401

# In aiohttp's paths a variable may have a pattern of its own behind a colon.
_VARIABLE = re.compile(r"\{(\w+)(?::[^{}]*)?\}")

_SCHEMA_PLACE = "#/components/schemas/{name}"

_BEARER, _HEADER = "bearer", "header"
_KEYS = {
    _BEARER: {"type": "http", "scheme": "bearer"},
    _HEADER: {"type": "apiKey", "in": "header", "name": "x-api-key"},
}

_ABOUT = (
    "A language model whose first and last layers run on this device. Fields that no schema names "
    "are ignored, unless they would change the meaning of an answer: then they are refused with "
    "400 and their name."
)


def describe(apis: Sequence[Api], has_key: bool) -> bytes:
    """The description as JSON (OpenAPI 3.1); with a key every request needs it."""
    types = list(_types(apis))
    schemas, components = msgspec.json.schema_components(types, ref_template=_SCHEMA_PLACE)
    named = _Schemas(dict(zip(types, schemas, strict=True)), has_key)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "hat", "description": _ABOUT, "version": "1"},
        "tags": [{"name": api.name} for api in apis],
        "paths": named.paths(apis),
        "components": {"schemas": components},
    }
    if has_key:
        document["components"]["securitySchemes"] = _KEYS
        document["security"] = [{_BEARER: []}, {_HEADER: []}]
    return msgspec.json.encode(document)


def plain_path(path: str) -> str:
    """A path as people write it: variables by their names alone."""
    return _VARIABLE.sub(r"{\1}", path)


def _types(apis: Sequence[Api]) -> Iterator[Any]:
    for api in apis:
        yield api.error
        for route in api.routes:
            yield from route.answers.values()
            if route.request is not None:
                yield route.request


class _Schemas:
    """Operations, with their types' schemas by type."""

    def __init__(self, schemas: Mapping[Any, Any], has_key: bool) -> None:
        self._schemas = schemas
        self._has_key = has_key

    def paths(self, apis: Sequence[Api]) -> dict[str, Any]:
        """All operations, by path and method."""
        paths: dict[str, Any] = {}
        for api in apis:
            for route in api.routes:
                operations = paths.setdefault(plain_path(route.path), {})
                operations[route.method.lower()] = self._operation(api, route)
        return paths

    def _operation(self, api: Api, route: Route) -> dict[str, Any]:
        operation: dict[str, Any] = {
            "operationId": _name(route),
            "tags": [api.name],
            "summary": _summary(route),
            "responses": self._responses(api, route),
        }
        if self._has_key and route.is_open:
            operation["security"] = []
        if names := _VARIABLE.findall(route.path):
            # Nothing between two slashes is no name, and another path.
            schema = {"type": "string", "minLength": 1}
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": schema} for name in names
            ]
        if route.request is not None:
            content = self._content({JSON: route.request})
            operation["requestBody"] = {"required": True, "content": content}
        return operation

    def _responses(self, api: Api, route: Route) -> dict[str, Any]:
        responses: dict[str, Any] = {}
        if route.answers:
            responses["200"] = {"description": "OK", "content": self._content(route.answers)}
        statuses = {*_ANY_REQUEST_ERRORS, *route.errors}
        if route.request is not None:
            statuses.update(_BODY_ERRORS)
        if self._has_key and not route.is_open:
            statuses.add(_KEY_ERROR)
        content = self._content({JSON: api.error})
        for status in sorted(statuses):
            responses[str(status)] = {
                "description": HTTPStatus(status).phrase,
                "content": content,
            }
        return responses

    def _content(self, types: Mapping[str, Any]) -> dict[str, Any]:
        return {
            content_type: {"schema": self._schemas[type_]} for content_type, type_ in types.items()
        }


def _name(route: Route) -> str:
    """Method and path in a form that can be a name: no other operation has both."""
    return re.sub(r"\W+", "_", f"{route.method.lower()}{plain_path(route.path)}").rstrip("_")


def _summary(route: Route) -> str:
    return (inspect.getdoc(route.handler) or "").partition("\n")[0]

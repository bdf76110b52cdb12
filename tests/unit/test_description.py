"""The OpenAPI description: of every route, from the types that requests are read with."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from aiohttp import hdrs, web

from device_runtime.api.app import make_app
from device_runtime.api.description.document import describe
from device_runtime.api.description.table import JSON, Api, Route
from device_runtime.api.request.body import MAX_TOP_LOGPROBS
from tests.support.api_server import make_service, story_generator, story_server


class Wanted(msgspec.Struct):
    num: int


class Given(msgspec.Struct):
    text: str


async def multiply(request: web.Request) -> web.Response:
    """Multiply a text.

    And more that is no summary.
    """
    return web.Response()


FIFTH = Api("fifth", (Route(hdrs.METH_POST, "/x/{n:.+}", multiply, {JSON: Given}, Wanted, (404,)),))


def described(*apis: Api, has_key: bool = False) -> Any:
    return msgspec.json.decode(describe(apis, has_key))


async def served() -> Any:
    async with story_server() as (client, _), client.http.get(f"{client.url}/openapi.json") as got:
        assert (got.status, got.content_type) == (200, "application/json")
        return msgspec.json.decode(await got.read())


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from references(each)


def test_an_api_is_its_table():
    document = described(FIFTH)
    [operation] = document["paths"]["/x/{n}"].values()
    assert operation["operationId"] == "post_x_n"
    assert operation["summary"] == "Multiply a text."
    assert [each["name"] for each in operation["parameters"]] == ["n"]
    assert operation["requestBody"]["content"][JSON]["schema"]["$ref"].endswith("/Wanted")
    assert operation["responses"]["200"]["content"][JSON]["schema"]["$ref"].endswith("/Given")
    expected = ["200", "400", "403", "404", "408", "413", "415", "417", "500"]
    assert list(operation["responses"]) == expected
    assert document["components"]["schemas"]["Wanted"]["required"] == ["num"]


def test_with_a_key_all_but_open_routes_want_it():
    probe = Route(hdrs.METH_GET, "/alive", multiply, {JSON: Given}, is_open=True)
    document = described(FIFTH, Api("probes", (probe,)), has_key=True)
    assert document["security"] == [{"bearer": []}, {"header": []}]
    assert "401" in document["paths"]["/x/{n}"]["post"]["responses"]
    alive = document["paths"]["/alive"]["get"]
    assert alive["security"] == []
    assert "401" not in alive["responses"]


async def test_every_route_is_described_and_every_name_in_it_is_there():
    document = await served()
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in make_app(make_service(story_generator())).router.routes()
        if route.method not in ("HEAD", "*") and route.resource is not None
    }
    told = {(method, path) for path, of in document["paths"].items() for method in of}
    assert told == routes
    operations = [each for of in document["paths"].values() for each in of.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    names = document["components"]["schemas"]
    assert {ref.rpartition("/")[2] for ref in references(document)} <= names.keys()
    assert all(re.fullmatch(r"[\w.-]+", name) for name in names)
    chat = names["ChatRequest"]["properties"]
    assert chat["top_logprobs"]["anyOf"][0]["maximum"] == MAX_TOP_LOGPROBS


async def test_each_api_describes_its_own_errors_and_what_it_never_does():
    paths = (await served())["paths"]

    def error(path: str, status: str = "400") -> str:
        schema = paths[path]["post"]["responses"][status]["content"][JSON]["schema"]
        return schema["$ref"].rpartition("/")[2]

    assert error("/v1/chat/completions") == error("/v1/responses") == "ErrorDocument"
    assert error("/v1/messages/count_tokens") == "AnthropicError"
    assert error("/api/chat") == "OllamaError"
    for path in ("/v1/embeddings", "/api/embed"):
        assert not any(status.startswith("2") for status in paths[path]["post"]["responses"])
        assert error(path, "501")


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/v1/chat/completions", "text/event-stream"),
        ("/v1/messages", "text/event-stream"),
        ("/api/chat", "application/x-ndjson"),
    ],
)
async def test_streams_are_described_beside_documents(path: str, content_type: str):
    content = (await served())["paths"][path]["post"]["responses"]["200"]["content"]
    assert content.keys() == {"application/json", content_type}


async def test_what_is_at_the_root_and_in_a_404_is_what_is_described():
    document = await served()
    async with story_server() as (client, _):
        async with client.http.get(client.url) as response:
            about = msgspec.json.decode(await response.read())
        async with client.http.get(f"{client.url}/v1/nothing") as response:
            message = msgspec.json.decode(await response.read())["error"]["message"]
    assert about["endpoints"] == list(document["paths"])
    assert about["description"] == "/openapi.json"
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"{method.upper()} {path}" in message

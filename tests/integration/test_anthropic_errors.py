"""Errors of Anthropic's API over HTTP, and who may ask."""

from typing import Any

import pytest

from device_runtime.api.service import AccessRules
from device_runtime.calling.layouts import HERMES
from device_runtime.generation.request import CloudUnavailableError
from tests.integration.test_tool_calls import ids_of, scripted, service_of
from tests.support.anthropic_events import ASKED, BOTH, LOOK, MESSAGES, TOOLS, asked, events
from tests.support.api_server import EOS, make_service, serving, story_server
from tests.support.fake_generator import FakeGenerator, always


async def test_a_fault_in_mid_stream_is_an_event() -> None:
    generator = FakeGenerator(
        always(ids_of("Hello.")), errors={3: CloudUnavailableError("the cloud is away", 1.0)}
    )
    async with serving(make_service(generator)) as client:
        told = await events(client, max_tokens=9)
    assert [event["type"] for event in told][-1] == "error"
    assert told[-1]["error"]["type"] == "overloaded_error"
    assert "the cloud is away" in told[-1]["error"]["message"]
    assert "".join(e.get("delta", {}).get("text", "") for e in told) == "Hel"


@pytest.mark.parametrize(
    ("num_cut", "which"), [(20, "a call of the tool 'add'"), (50, "a tool call")]
)
async def test_half_a_call_is_an_error_that_says_so(num_cut: int, which: str) -> None:
    half = BOTH[:-num_cut]
    async with serving(service_of(scripted(half), HERMES)) as client:
        fields = {**TOOLS, "max_tokens": len(half)}
        status, told = await client.post(MESSAGES, {**ASKED, **fields})
        assert status == 400
        assert told["error"]["message"].endswith(f"in the middle of {which}")
        assert (await events(client, **fields))[-1]["error"] == told["error"]


async def test_a_prompt_that_does_not_fit_is_told_as_clients_look_for_it() -> None:
    generator = FakeGenerator(always([EOS]), max_context_tokens=16)
    for words in ("word " * 20, "word " * 500):
        status, told = await asked(
            make_service(generator), messages=[{"role": "user", "content": words}]
        )
        assert status == 400
        assert told["error"]["type"] == "invalid_request_error"
        assert told["error"]["message"].startswith("prompt is too long: ")
        assert told["error"]["message"].endswith(" tokens > 16 maximum")


@pytest.mark.parametrize(
    ("fields", "begin"),
    [
        (
            {"tools": [LOOK, {"name": "x", "input_schema": {"properties": {"y": {"type": 3}}}}]},
            "tools[1].input_schema: ",
        ),
        ({"tools": [{"name": "x", "input_schema": []}]}, "tools[0].input_schema: expected a JSON"),
        ({"tools": [LOOK, LOOK]}, "tools[1].name: expected different names"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name: expected 1 to 128"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": 3}}},
            "output_config.format.schema: expected a JSON schema",
        ),
        ({**TOOLS, "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice: expected one of"),
        ({"stop_sequences": ["x" * 40_000]}, "stop_sequences: expected at most"),
    ],
)
async def test_faults_found_later_are_named_in_anthropics_words(
    fields: dict[str, Any], begin: str
) -> None:
    status, told = await asked(service_of(scripted("Hello."), HERMES), **fields)
    assert status == 400
    assert told["type"] == "error"
    assert told["error"]["type"] == "invalid_request_error"
    assert told["error"]["message"].startswith(begin), told


async def test_another_model_is_not_found() -> None:
    for path in (MESSAGES, f"{MESSAGES}/count_tokens"):
        async with story_server() as (client, _):
            status, told = await client.post(path, {**ASKED, "model": "claude-x"})
        assert (status, told["error"]["type"]) == (404, "not_found_error")
        assert (
            "'claude-x' does not exist; this server has 'stories260k'" in told["error"]["message"]
        )


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-api-key": "right"}, 200),
        ({"Authorization": "Bearer right"}, 200),
        ({"Authorization": "Bearer wrong", "x-api-key": "right"}, 401),
        ({"x-api-key": "wrong"}, 401),
        ({}, 401),
    ],
)
async def test_the_key_may_come_as_anthropics_clients_send_it(
    headers: dict[str, str], expected: int
) -> None:
    access = AccessRules(api_key="right")
    async with story_server(access=access) as (client, _):
        status, told = await client.post(MESSAGES, {**ASKED, "max_tokens": 5}, headers=headers)
    assert status == expected
    if status == 401:
        assert told["type"] == "error"
        assert told["error"]["type"] == "authentication_error"
        assert "x-api-key" in told["error"]["message"]


async def test_clients_that_look_whether_somebody_is_there() -> None:
    async with story_server() as (client, _):
        for path in ("/", "/api/version", "/api/tags"):
            async with client.http.head(client.url + path) as response:
                assert response.status == 200
                assert await response.read() == b""

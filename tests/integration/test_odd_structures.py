"""Structures that no reader of JSON follows to the end, and texts that no lexer expects."""

import json
from typing import Any

import pytest

from device_runtime.calling.layouts import GENERIC, QWEN3_CODER
from tests.integration.test_tool_calls import ids_of, scripted, service_of
from tests.support.api_server import CHAT, COMPLETIONS, USER, serving

DEEP = '{"a": ' + "[" * 3000 + "]" * 3000 + "}"
CALL = {"id": "a", "type": "function", "function": {"name": "x", "arguments": DEEP}}
MESSAGES = [*USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
ANYTHING = {"type": "function", "function": {"name": "put", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (CHAT, {"messages": MESSAGES}, "messages[1].tool_calls[0].function.arguments"),
        ("/api/chat", {"messages": MESSAGES, "stream": False}, "messages[1].tool_calls[0]"),
        (
            "/v1/responses",
            {"input": [{"type": "function_call", "call_id": "a", "name": "x", "arguments": DEEP}]},
            "input[0].arguments",
        ),
        (COMPLETIONS, {"prompt": "x", "guided_json": DEEP}, "guided_json"),
    ],
)
async def test_json_within_a_text_may_not_be_nested_without_end(
    path: str, body: dict[str, Any], named: str
) -> None:
    async with serving(service_of(scripted("Hello"), GENERIC)) as client:
        status, answer = await client.post(path, {"model": "stories260k", **body})
    assert status == 400, answer
    assert named in json.dumps(answer)


@pytest.mark.parametrize("num_levels", [400, 600, *range(950, 980)])
async def test_arguments_of_any_depth_are_told_or_refused(num_levels: int) -> None:
    inner = "[" * num_levels + "]" * num_levels
    call = {
        "id": "a",
        "type": "function",
        "function": {"name": "x", "arguments": f'{{"a": {inner}}}'},
    }
    messages = [*USER, {"role": "assistant", "content": "", "tool_calls": [call]}, *USER]
    generator = scripted("Hello")
    async with serving(service_of(generator, GENERIC)) as client:
        status, answer = await client.post(CHAT, {"messages": messages, "max_tokens": 1})
        assert status == (200 if num_levels < 500 else 400), answer
        for field in ("metadata", "tools"):
            value = "{}" if field == "metadata" else '[{"type": "web_search", "parameters": {}}]'
            raw = f'{{"input": "x", "max_output_tokens": 1, "{field}": {value}}}'
            raw = raw.replace("{}", f'{{"a": {inner}}}')
            status, answer = await client.post("/v1/responses", raw.encode())
            assert status == (200 if num_levels < 500 else 400), answer


@pytest.mark.parametrize("value", ["[" * 1500 + "]" * 1500, "1e999", "-12345678901234567890123"])
async def test_what_a_model_says_in_a_call_is_passed_on_as_it_is(value: str) -> None:
    text = f'<tool_call>[{{"name": "put", "arguments": {{"a": {value}}}}}]</tool_call>'
    function = ANYTHING["function"]
    assert isinstance(function, dict)
    tool = {"name": "put", "input_schema": function["parameters"]}
    whole = f'{{"a": {value}}}'
    async with serving(service_of(scripted(text), GENERIC)) as client:
        bodies = [
            (CHAT, {"messages": USER, "tools": [ANYTHING]}),
            ("/v1/messages", {"messages": USER, "tools": [tool], "max_tokens": 4000}),
            ("/api/chat", {"messages": USER, "tools": [ANYTHING], "stream": False}),
        ]
        for path, body in bodies:
            named = {"model": "stories260k", **body}
            async with client.http.post(client.url + path, json=named) as response:
                answer = await response.text()
                assert response.status == 200, (path, answer[:300])
            assert whole.replace('"', '\\"') in answer or whole in answer, path


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "[NaN]", "[" * 3000])
async def test_what_is_no_json_is_a_text_where_anything_goes(value: str) -> None:
    text = f"<tool_call>\n<function=put>\n<parameter=a>\n{value}\n</parameter>\n</function>\n"
    tool = {"name": "put", "parameters": {"type": "object", "properties": {"a": {}}}}
    body = {"messages": USER, "tools": [{"type": "function", "function": tool}]}
    async with serving(service_of(scripted(text + "</tool_call>"), QWEN3_CODER)) as client:
        status, answer = await client.post(CHAT, body)
    assert status == 200, answer
    [call] = answer["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"a": value}


async def test_a_choice_may_hold_any_character() -> None:
    text = "a\x7fb\x00é\u2028😀/"
    body = {"prompt": "x", "structured_outputs": {"choice": [text, "b"]}, "max_tokens": 99}
    async with serving(service_of(scripted(text), GENERIC)) as client:
        status, answer = await client.post(COMPLETIONS, body)
    assert status == 200, answer
    assert answer["choices"][0]["text"] == text
    assert len(ids_of(text)) == len(text.encode())


@pytest.mark.parametrize(
    "schema", [{"$ref": "#"}, {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}]
)
async def test_a_schema_that_refers_to_nothing_but_itself_is_named(schema: dict[str, Any]) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    async with serving(service_of(scripted("{}"), GENERIC)) as client:
        status, answer = await client.post(COMPLETIONS, {"prompt": "x", "response_format": form})
    assert status == 400
    assert answer["error"]["code"] == "invalid_grammar"
    assert answer["error"]["param"] == "response_format.json_schema.schema"

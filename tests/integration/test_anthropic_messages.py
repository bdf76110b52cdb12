"""Anthropic's API over HTTP: messages, their events, counting; what the model says is scripted."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from device_runtime.api.service import AccessRules, Timing
from device_runtime.calling.layouts import HERMES
from device_runtime.generation.request import CloudUnavailableError
from tests.integration.test_thinking import service_of as thinking_service
from tests.integration.test_tool_calls import ROME, SUM, ids_of, scripted, service_of, written
from tests.support.api_server import EOS, MODEL, Client, make_service, serving, story_server
from tests.support.fake_generator import FakeGenerator, always
from tests.support.tokenizers import story_tokenizer

MESSAGES = "/v1/messages"
ASKED = {
    "model": MODEL,
    "max_tokens": 4096,
    "messages": [{"role": "user", "content": "How warm is it?"}],
}
LOOK = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}
ADD = {
    "name": "add",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
    },
}
TOOLS = {"tools": [LOOK, ADD]}
BOTH = written(HERMES, ("get_weather", ROME), ("add", SUM))


async def asked(service: Any, **fields: Any) -> tuple[int, Any]:
    async with serving(service) as client:
        return await client.post(MESSAGES, {**ASKED, **fields})


async def events(client: Client, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream, whose names are in both places."""
    told = []
    for frame in await client.events(MESSAGES, {**ASKED, **fields}):
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        told.append(event)
    return told


def built(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks that a stream tells, put together; their order and their indices are checked."""
    blocks: list[dict[str, Any]] = []
    is_open = False
    for event in told:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(blocks)
                blocks.append({**event["content_block"], "json": ""})
                is_open = True
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(blocks) - 1
                grow(blocks[-1], event["delta"])
            case "content_block_stop":
                assert is_open
                assert event["index"] == len(blocks) - 1
                is_open = False
    assert not is_open
    for block in blocks:
        if text := block.pop("json"):
            block["input"] = json.loads(text)
    return blocks


def grow(block: dict[str, Any], delta: dict[str, Any]) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case "input_json_delta":
            block["json"] += delta["partial_json"]


async def test_words_are_a_message_of_one_block() -> None:
    status, told = await asked(service_of(scripted("Hello."), HERMES))
    assert status == 200
    assert told["id"].startswith("msg_")
    assert (told["type"], told["role"], told["model"]) == ("message", "assistant", MODEL)
    assert told["content"] == [{"type": "text", "text": "Hello."}]
    assert (told["stop_reason"], told["stop_sequence"]) == ("end_turn", None)
    assert told["usage"]["output_tokens"] == len("Hello.") + 1


async def test_a_stream_tells_the_same_message() -> None:
    async with serving(service_of(scripted(f"Let me look. {BOTH}"), HERMES)) as client:
        status, whole = await client.post(MESSAGES, {**ASKED, **TOOLS})
        told = await events(client, **TOOLS)
    assert status == 200
    assert [block["type"] for block in whole["content"]] == ["text", "tool_use", "tool_use"]
    kinds = [event["type"] for event in told]
    assert kinds[0] == "message_start"
    assert kinds[1] == "content_block_start"
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    start = told[0]["message"]
    assert (start["content"], start["stop_reason"], start["role"]) == ([], None, "assistant")
    assert start["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    end = told[-2]
    assert end["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert end["usage"] == whole["usage"]
    blocks = built(told)
    assert [{**block, "id": None} for block in blocks] == [
        {**block, "id": None} for block in whole["content"]
    ]
    assert blocks[1]["input"] == ROME
    assert blocks[2]["input"] == SUM
    assert len({block["id"] for block in blocks[1:]}) == 2
    # Arguments grow piece by piece, and a call begins with none.
    starts = [event["content_block"] for event in told if event["type"] == "content_block_start"]
    assert starts[1]["input"] == {}
    assert sum(event.get("delta", {}).get("type") == "input_json_delta" for event in told) > 10


async def test_an_empty_answer_is_a_message_without_blocks() -> None:
    async with serving(service_of(scripted(""), HERMES)) as client:
        status, whole = await client.post(MESSAGES, ASKED)
        told = await events(client)
    assert (status, whole["content"], whole["stop_reason"]) == (200, [], "end_turn")
    assert [event["type"] for event in told] == ["message_start", "message_delta", "message_stop"]


@pytest.mark.parametrize(
    ("fields", "reason", "sequence"),
    [
        ({}, "end_turn", None),
        ({"max_tokens": 3}, "max_tokens", None),
        ({"stop_sequences": ["xyz", "lo"]}, "stop_sequence", "lo"),
    ],
)
async def test_why_an_answer_ended(fields: Any, reason: str, sequence: str | None) -> None:
    async with serving(service_of(scripted("Hello."), HERMES)) as client:
        status, whole = await client.post(MESSAGES, {**ASKED, **fields})
        told = await events(client, **fields)
    assert status == 200
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, sequence)
    assert told[-2]["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


async def test_an_answer_that_fills_the_context_says_so() -> None:
    # Clients always ask for some number of tokens, often for more than there can be.
    generator = FakeGenerator(always(ids_of("Hello. ")), max_context_tokens=64)
    status, told = await asked(make_service(generator), max_tokens=32_000)
    assert status == 200
    assert told["stop_reason"] == "model_context_window_exceeded"
    assert told["usage"]["input_tokens"] + told["usage"]["output_tokens"] == 64


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


async def test_thoughts_are_blocks_of_their_own() -> None:
    text = f"<think>Hm, Rome.</think>I look. {written(HERMES, ('get_weather', ROME))}"
    async with serving(thinking_service(scripted(text))) as client:
        status, whole = await client.post(MESSAGES, {**ASKED, **TOOLS})
        told = await events(client, **TOOLS)
    assert status == 200
    thought, words, call = whole["content"]
    # A signature that is there: some clients send back no thoughts without one.
    assert thought == {"type": "thinking", "thinking": "Hm, Rome.", "signature": "unsigned"}
    assert words == {"type": "text", "text": "I look."}
    assert call["input"] == ROME
    assert built(told)[:2] == [thought, words]
    assert 0 < whole["usage"]["output_tokens_details"]["thinking_tokens"] < len(text)
    assert told[-2]["usage"] == whole["usage"]


async def test_thinking_can_be_turned_off() -> None:
    generator = scripted("Four.")
    status, _ = await asked(thinking_service(generator), thinking={"type": "disabled"})
    assert status == 200
    prompt = story_tokenizer().decode(list(generator.requests[0].prompt_ids))
    assert prompt.endswith("<think></think>")


@pytest.mark.parametrize("more", [{}, TOOLS, {"system": "Be brief."}, {**TOOLS, "system": "No."}])
async def test_counted_tokens_are_those_of_usage(more: dict[str, Any]) -> None:
    history = [
        *ASKED["messages"],
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "a", "name": "add", "input": SUM}],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "-1.5"},
                {"type": "text", "text": "And now?"},
            ],
        },
    ]
    body = {"model": MODEL, "messages": history, **more}
    async with serving(service_of(scripted("Hello."), HERMES)) as client:
        status, counted = await client.post(f"{MESSAGES}/count_tokens", body)
        assert status == 200, counted
        _, told = await client.post(MESSAGES, {**body, "max_tokens": 5})
    assert counted == {"input_tokens": told["usage"]["input_tokens"]}


async def test_an_answer_that_has_begun_goes_on() -> None:
    generator = scripted("warm.")
    turns = [*ASKED["messages"], {"role": "assistant", "content": "It is"}]
    async with serving(thinking_service(generator)) as client:
        status, told = await client.post(MESSAGES, {**ASKED, "messages": turns})
        assert status == 200, told
        _, counted = await client.post(f"{MESSAGES}/count_tokens", {"messages": turns})
        call = {"type": "tool_use", "id": "a", "name": "add", "input": SUM}
        turns = [*ASKED["messages"], {"role": "assistant", "content": [call]}]
        status, fault = await client.post(MESSAGES, {**ASKED, "messages": turns})
    assert counted == {"input_tokens": told["usage"]["input_tokens"]}
    prompt = story_tokenizer().decode(list(generator.requests[0].prompt_ids))
    assert prompt == "[user] How warm is it?\n[assistant] It is"
    assert status == 400
    assert fault["error"]["message"].startswith("messages: expected a last message of the assist")


async def test_cached_tokens_are_counted_apart() -> None:
    generator = scripted("Hello.")
    generate = generator.generate

    def remembering(request: Any, request_id: str) -> Any:
        generation = generate(request, request_id)
        generation.stats = replace(generation.stats, num_reused_tokens=4)
        return generation

    generator.generate = remembering  # type: ignore[method-assign]
    async with serving(service_of(generator, HERMES)) as client:
        _, whole = await client.post(MESSAGES, ASKED)
        _, counted = await client.post(f"{MESSAGES}/count_tokens", {"messages": ASKED["messages"]})
        told = await events(client)
    usage = whole["usage"]
    assert usage["cache_read_input_tokens"] == 4
    assert usage["input_tokens"] + 4 == counted["input_tokens"]
    assert told[-2]["usage"] == usage
    assert told[0]["message"]["usage"]["cache_read_input_tokens"] == 4


async def test_a_silent_stream_pings() -> None:
    gate = asyncio.Event()
    generator = FakeGenerator(always([*ids_of("Hello."), EOS]), gates={0: gate})
    service = make_service(generator, timing=Timing(ping_s=0.01))
    async with serving(service) as client:
        body = {**ASKED, "max_tokens": 9, "stream": True}
        async with client.http.post(client.url + MESSAGES, json=body) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            first = await response.content.readuntil(b"\n\n")
            assert first == b'event: ping\ndata: {"type":"ping"}\n\n'
            gate.set()
            rest = (await response.read()).decode()
    assert "event: message_start" in rest
    assert rest.index("event: message_start") < rest.index("event: content_block_start")


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


async def test_an_answer_is_held_to_a_schema() -> None:
    generator = scripted("{}")
    schema = {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}
    format_ = {"type": "json_schema", "schema": schema}
    status, _ = await asked(service_of(generator, HERMES), output_config={"format": format_})
    assert status == 200
    grammar = generator.requests[0].grammar
    assert grammar is not None
    assert grammar.start().num_valid((), ids_of('{"a": null}')) == len('{"a": null}')
    assert grammar.start().num_valid((), ids_of("{}")) == 1


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

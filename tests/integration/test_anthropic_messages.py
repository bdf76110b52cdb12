"""Anthropic's API over HTTP: messages, their events, counting; what the model says is scripted."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from device_runtime.api.service import Timing
from device_runtime.calling.layouts import HERMES
from device_runtime.text.chat_template import ChatTemplate
from tests.integration.test_thinking import service_of as thinking_service
from tests.integration.test_tool_calls import ROME, SUM, ids_of, scripted, service_of, written
from tests.support.anthropic_events import (
    ASKED,
    BOTH,
    MESSAGES,
    TOOLS,
    asked,
    built,
    events,
)
from tests.support.api_server import EOS, MODEL, make_service, serving
from tests.support.fake_generator import FakeGenerator, always
from tests.support.tokenizers import story_tokenizer


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


async def test_a_turn_as_claude_code_asks_for_it() -> None:
    # Version 2.1.197, shortened; `propertyNames` is more than a grammar can hold to.
    update = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "metadata": {
                "type": "object",
                "propertyNames": {"type": "string"},
                "additionalProperties": {},
            },
            "count": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9007199254740991},
            "url": {"type": "string", "format": "uri"},
        },
        "required": ["count"],
        "additionalProperties": False,
    }
    ephemeral = {"cache_control": {"type": "ephemeral"}}
    words = {"type": "text", "text": "Run echo."}
    generator = scripted(BOTH)
    async with serving(service_of(generator, HERMES)) as client:
        told = await events(
            client,
            max_tokens=32_000,
            system=[{"type": "text", "text": "You are an agent.", **ephemeral}],
            messages=[
                {"role": "user", "content": [words, {**words, **ephemeral}]},
                {"role": "system", "content": "There are agents."},
            ],
            tools=[*TOOLS["tools"], {"name": "TaskUpdate", "input_schema": update}],
            thinking={"type": "adaptive"},
            context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            output_config={"effort": "high"},
            metadata={"user_id": "x"},
        )
    assert [block["name"] for block in built(told)] == ["get_weather", "add"]
    grammar = generator.requests[0].grammar
    assert grammar is not None
    for arguments, fits in (({"metadata": {"a": 1}, "count": 1}, True), ({"count": 0}, False)):
        ids = ids_of(written(HERMES, ("TaskUpdate", arguments)))
        assert (grammar.start().num_valid((), ids) == len(ids)) is fits


async def test_a_template_may_not_let_the_system_speak_between_turns() -> None:
    strict = (
        "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}] {{ m.content }}\n"
        "{% endfor %}"
    )
    turns = [*ASKED["messages"], {"role": "system", "content": "It is June."}]
    generator = scripted("Warm.")
    service = replace(service_of(generator, HERMES), template=ChatTemplate(strict, {}))
    async with serving(service) as client:
        body = {**ASKED, "messages": turns, "system": "Be brief."}
        status, told = await client.post(MESSAGES, body)
        assert status == 200, told
        _, counted = await client.post(f"{MESSAGES}/count_tokens", {**body, "max_tokens": None})
    assert counted == {"input_tokens": told["usage"]["input_tokens"]}
    prompt = story_tokenizer().decode(list(generator.requests[0].prompt_ids))
    assert prompt.startswith("[system] Be brief.\n[user] How warm is it?\nIt is June.")


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

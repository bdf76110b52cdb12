"""The Responses API over HTTP, answers scripted: documents, events in order, what is kept."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from device_runtime.api.service import Timing
from device_runtime.calling.layouts import HERMES
from device_runtime.generation.request import CloudUnavailableError
from tests.integration.test_thinking import service_of as thinking_service
from tests.integration.test_tool_calls import (
    ADD,
    ROME,
    SUM,
    WEATHER,
    ids_of,
    scripted,
    service_of,
    written,
)
from tests.support.api_server import Client, serving
from tests.support.fake_generator import FakeGenerator
from tests.support.tokenizers import story_tokenizer

PATH = "/v1/responses"
TOOLS = [{"type": "function", **tool["function"]} for tool in (WEATHER, ADD)]
TWO_CALLS = written(HERMES, ("get_weather", ROME), ("add", SUM))


@asynccontextmanager
async def client_of(generator: FakeGenerator, *, thinks: bool = False) -> AsyncIterator[Client]:
    service = thinking_service(generator) if thinks else service_of(generator, HERMES)
    async with serving(service) as client:
        yield client


async def ask(text: str, *, thinks: bool = False, **fields: Any) -> Any:
    async with client_of(scripted(text), thinks=thinks) as client:
        status, document = await client.post(PATH, {"input": "Hi", **fields})
    assert status == 200, document
    return document


async def events_of(client: Client, **fields: Any) -> list[Any]:
    """The events of a stream, whose names are those of their data."""
    frames = await client.events(PATH, {"input": "Hi", **fields})
    named = [frame.removeprefix("event: ").split("\ndata: ") for frame in frames]
    events = [json.loads(data) for _, data in named]
    assert [name for name, _ in named] == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


async def stream(text: str, *, thinks: bool = False, **fields: Any) -> list[Any]:
    async with client_of(scripted(text), thinks=thinks) as client:
        return await events_of(client, **fields)


def prompt_of(generator: FakeGenerator) -> str:
    return story_tokenizer().decode(list(generator.requests[-1].prompt_ids))


async def test_words() -> None:
    document = await ask("Hello.", instructions="Be short.", metadata={"a": "b"}, user="me")
    [message] = document["output"]
    assert message["content"] == [
        {"type": "output_text", "text": "Hello.", "annotations": [], "logprobs": []}
    ]
    assert (message["type"], message["role"], message["status"]) == (
        "message",
        "assistant",
        "completed",
    )
    assert document["status"] == "completed"
    assert document["completed_at"] >= document["created_at"]
    assert document["instructions"] == "Be short."
    assert document["metadata"] == {"a": "b"}
    usage = document["usage"]
    assert usage["output_tokens"] == len(ids_of("Hello.")) + 1
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


async def test_words_and_calls_are_items_in_order() -> None:
    document = await ask(f"I look. {TWO_CALLS}", tools=[{"type": "web_search"}, *TOOLS])
    words, *calls = document["output"]
    assert words["content"][0]["text"] == "I look."
    assert [call["name"] for call in calls] == ["get_weather", "add"]
    assert [json.loads(call["arguments"]) for call in calls] == [ROME, SUM]
    assert {call["type"] for call in calls} == {"function_call"}
    ids = [item["id"] for item in document["output"]]
    assert [name.partition("_")[0] for name in ids] == ["msg", "fc", "fc"]
    assert len({*ids, *(call["call_id"] for call in calls)}) == 5
    assert [tool["name"] for tool in document["tools"]] == ["get_weather", "add"]


async def test_thoughts_are_an_item_and_counted() -> None:
    document = await ask("<think>Hm.</think>Four.", thinks=True)
    thoughts, words = document["output"]
    assert thoughts["type"] == "reasoning"
    assert thoughts["summary"] == []
    assert thoughts["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert words["content"][0]["text"] == "Four."
    assert document["usage"]["output_tokens_details"]["reasoning_tokens"] > 0


async def test_an_answer_of_nothing_is_a_message_without_words() -> None:
    [message] = (await ask(""))["output"]
    assert message["content"][0]["text"] == ""


@pytest.mark.parametrize(
    ("text", "thinks", "places"),
    [
        ("Hello there.", False, ["message"]),
        (f"I look. {TWO_CALLS}", False, ["message", "function_call", "function_call"]),
        ("<think>Hm, 4.</think>Four.", True, ["reasoning", "message"]),
        ("", False, ["message"]),
    ],
)
async def test_events_tell_the_life_of_each_item(
    text: str, thinks: bool, places: list[str]
) -> None:
    events = await stream(text, thinks=thinks, tools=TOOLS)
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[0]["response"]["status"] == "in_progress"
    last = events[-1]
    assert last["type"] == "response.completed"
    output = last["response"]["output"]
    assert [item["type"] for item in output] == places
    assert {event["response"]["id"] for event in events if "response" in event} == {
        last["response"]["id"]
    }
    rest = events[2:-1]
    for place, item in enumerate(output):
        own = [event for event in rest if event["output_index"] == place]
        assert rest[: len(own)] == own, "one item after the other"
        del rest[: len(own)]
        check_life(own, item)
    assert rest == []


def check_life(events: list[Any], item: Any) -> None:
    """An item is added, grows and is done; its deltas are what it is in the end."""
    added, *middle, done = events
    assert added["type"] == "response.output_item.added"
    assert added["item"]["status"] == "in_progress"
    assert added["item"]["id"] == item["id"]
    assert (done["type"], done["item"]) == ("response.output_item.done", item)
    assert all(event["item_id"] == item["id"] for event in middle)
    if item["type"] == "function_call":
        assert added["item"] == {**item, "arguments": "", "status": "in_progress"}
        *deltas, end = middle
        kind, whole = "response.function_call_arguments", item["arguments"]
        assert end["arguments"] == whole
    else:
        part_added, *deltas, end, part_done = middle
        [part] = item["content"] or [{"text": ""}]
        assert part_added["type"] == "response.content_part.added"
        assert part_added["part"]["text"] == ""
        assert part_done["type"] == "response.content_part.done"
        assert part_done["part"] == part
        name = "reasoning_text" if item["type"] == "reasoning" else "output_text"
        kind, whole = f"response.{name}", part["text"]
        assert end["text"] == whole
    assert end["type"] == f"{kind}.done"
    assert {event["type"] for event in deltas} <= {f"{kind}.delta"}
    assert "".join(event["delta"] for event in deltas) == whole


async def test_a_stream_ends_with_the_document_that_is_kept() -> None:
    async with client_of(scripted("Hello.")) as client:
        events = await events_of(client)
        response = events[-1]["response"]
        async with client.http.get(f"{client.url}{PATH}/{response['id']}") as kept:
            assert await kept.json() == response


@pytest.mark.parametrize("thinks", [False, True])
async def test_an_answer_that_its_length_ends_is_incomplete(thinks: bool) -> None:
    text = "<think>Hm, a long thought" if thinks else "A long story"
    document = await ask(text, thinks=thinks, max_output_tokens=16 if thinks else 4)
    assert document["status"] == "incomplete"
    assert document["incomplete_details"] == {"reason": "max_output_tokens"}
    assert document["completed_at"] is None
    assert document["output"][-1]["status"] == "incomplete"
    events = await stream(text, thinks=thinks, max_output_tokens=16 if thinks else 4)
    assert events[-1]["type"] == "response.incomplete"
    [*_, done] = [event for event in events if event["type"] == "response.output_item.done"]
    assert done["item"] == events[-1]["response"]["output"][-1]
    assert done["item"]["status"] == "incomplete"


async def test_half_a_call_is_an_error_that_names_the_field_of_this_api() -> None:
    half = written(HERMES, ("get_weather", ROME))[:-20]
    fields = {"tools": TOOLS, "max_output_tokens": len(ids_of(half))}
    async with client_of(scripted(half)) as client:
        status, answer = await client.post(PATH, {"input": "Hi", **fields})
        assert status == 400
        assert answer["error"]["param"] == "max_output_tokens"
        assert answer["error"]["message"].startswith("max_output_tokens ended the answer")
        *_, error, failed = await events_of(client, **fields)
    assert error["type"] == "error"
    assert error["code"] == error["error"]["code"] == "tool_call_incomplete"
    assert error["param"] == "max_output_tokens"
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"]["code"] == "tool_call_incomplete"
    [call] = failed["response"]["output"]
    assert call["status"] == "incomplete"


async def test_a_cloud_that_is_lost_in_the_middle_fails_the_response_which_is_not_kept() -> None:
    generator = scripted("Hello.")
    generator.errors[3] = CloudUnavailableError("gone", 1.0)
    async with client_of(generator) as client:
        *_, error, failed = await events_of(client)
        assert error["error"]["type"] == "service_unavailable_error"
        assert failed["response"]["error"] == {"code": "cloud_unavailable", "message": "gone"}
        assert failed["response"]["output"][0]["content"][0]["text"] == "Hel"
        async with client.http.get(f"{client.url}{PATH}/{failed['response']['id']}") as kept:
            assert kept.status == 404
        generator.errors[0] = CloudUnavailableError("gone", 1.0)
        status, answer = await client.post(PATH, {"input": "Hi", "stream": True})
        assert (status, answer["error"]["code"]) == (503, "cloud_unavailable")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": None}, "input", "missing_field"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"truncation": "sometimes"}, "truncation", "invalid_value"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema", "missing_field"),
        (
            {"text": {"format": {"type": "json_schema", "schema": {"type": 3}}}},
            "text.format.schema",
            "invalid_grammar",
        ),
        (
            {"tools": [{"type": "web_search"}, {**TOOLS[0], "parameters": {"type": "string"}}]},
            "tools[1].parameters",
            "invalid_value",
        ),
        ({"tools": [*TOOLS, TOOLS[0]]}, "tools[2].name", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"model": "gpt-5"}, "model", "model_not_found"),
        ({"use_beam_search": True}, "use_beam_search", "unsupported_parameter"),
        ({"input": "long " * 9000}, "input", "context_length_exceeded"),
    ],
)
async def test_faults_are_named_as_they_were_sent(
    fields: dict[str, Any], param: str, code: str
) -> None:
    async with client_of(scripted("Hello.")) as client:
        for more in ({}, {"stream": True}):
            status, answer = await client.post(PATH, {"input": "Hi", **fields, **more})
            assert status == (404 if param == "model" else 400)
            error = answer["error"]
            assert (error["param"], error["code"]) == (param, code)
            for name in ("messages", "response_format", "function.", " max_tokens"):
                assert name not in error["message"]


async def test_the_format_holds_the_answer_and_stands_in_it() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "null"}}, "required": ["x"]}
    format_ = {"type": "json_schema", "name": "x", "schema": schema, "strict": True}
    generator = scripted('{"x": null}')
    async with client_of(generator) as client:
        body = {"input": "Hi", "text": {"format": format_, "verbosity": "low"}}
        _, document = await client.post(PATH, body)
    assert document["text"] == {"format": format_, "verbosity": "low"}
    [request] = generator.requests
    assert request.grammar is not None
    for text, fits in (('{"x": null}', True), ('{"y": null}', False)):
        ids = ids_of(text)
        assert (request.grammar.start().num_valid((), ids) == len(ids)) is fits


async def test_a_length_that_has_no_room_is_shortened_and_sampling_is_told() -> None:
    generator = scripted("Hello.")
    sampling = {"temperature": 0.5, "top_p": 0.25, "presence_penalty": 1.5, "seed": 7}
    async with client_of(generator) as client:
        status, document = await client.post(
            PATH, {"input": "Hi", "max_output_tokens": 100_000, **sampling}
        )
    assert status == 200
    assert document["max_output_tokens"] == 100_000
    [request] = generator.requests
    assert request.max_tokens + len(request.prompt_ids) == generator.max_context_tokens
    assert request.sampling.seed == 7
    for name in ("temperature", "top_p", "presence_penalty"):
        assert document[name] == sampling[name]
    assert document["frequency_penalty"] == 0


@pytest.mark.parametrize(
    "fields", [{"include": ["message.output_text.logprobs"]}, {"top_logprobs": 2}]
)
async def test_log_probabilities_come_with_the_words(fields: dict[str, Any]) -> None:
    [message] = (await ask("Hello.", **fields))["output"]
    [part] = message["content"]
    entries = part["logprobs"]
    assert "".join(entry["token"] for entry in entries) == "Hello."
    assert [entry["logprob"] for entry in entries[:2]] == [-0.25, -0.5]
    num_top = fields.get("top_logprobs", 0)
    assert all(len(entry["top_logprobs"]) == num_top for entry in entries)
    events = await stream("Hello.", **fields)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [entry for event in deltas for entry in event["logprobs"]] == entries
    assert events[-1]["response"]["output"][0]["content"] == [part]


@pytest.mark.parametrize("thinks", [False, True])
async def test_log_probabilities_are_of_words_alone(thinks: bool) -> None:
    tools = {} if thinks else {"tools": TOOLS}
    async with client_of(scripted("Hello."), thinks=thinks) as client:
        status, answer = await client.post(PATH, {"input": "Hi", "top_logprobs": 1, **tools})
    assert (status, answer["error"]["param"]) == (400, "top_logprobs")


async def test_truncation_leaves_out_first_turns_where_it_is_asked_for() -> None:
    generator = scripted("Hello.")
    turns = [{"role": "developer", "content": "Rules"}]
    for number in range(12):
        turns.append({"role": "user", "content": f"Question {number} " + "word " * 300})
        turns.append({"role": "assistant", "content": f"Answer {number}"})
    turns.append({"role": "user", "content": "Last question"})
    async with client_of(generator) as client:
        status, answer = await client.post(PATH, {"input": turns})
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        status, document = await client.post(PATH, {"input": turns, "truncation": "auto"})
        assert status == 200
        assert document["truncation"] == "auto"
        prompt = prompt_of(generator)
        too_long = [*turns[:-1], {"role": "user", "content": "word " * 9000}]
        status, answer = await client.post(PATH, {"input": too_long, "truncation": "auto"})
        assert (status, answer["error"]["param"]) == (400, "input")
    [request] = generator.requests
    assert request.max_tokens >= 256
    first = next(n for n in range(12) if f"Question {n} " in prompt)
    assert 0 < first < 12
    assert "Rules" in prompt
    assert f"Answer {first - 1}" not in prompt
    assert all(f"Question {n} " in prompt for n in range(first, 12))
    one_more = len(story_tokenizer().encode(f"Question {first - 1} " + "word " * 300, False))
    assert request.max_tokens - one_more < 256 + 30


async def test_tokens_of_the_input_are_counted_as_they_are_sent() -> None:
    async with client_of(scripted("Hello.")) as client:
        body = {"input": "How long is this?", "instructions": "Count.", "tools": TOOLS}
        _, count = await client.post(f"{PATH}/input_tokens", body)
        _, document = await client.post(PATH, body)
        assert count == {
            "object": "response.input_tokens",
            "input_tokens": document["usage"]["input_tokens"],
        }
        status, answer = await client.post(f"{PATH}/input_tokens", {**body, "model": "gpt"})
        assert (status, answer["error"]["code"]) == (404, "model_not_found")


async def test_figures_stand_in_the_last_document() -> None:
    assert (await ask("Hello.", include_hat_stats=True))["hat"]["rounds"] == 2
    events = await stream("Hello.", include_hat_stats="timeline")
    assert events[-1]["response"]["hat"]["timeline"]


async def test_a_stream_that_waits_for_its_first_token_begins_with_a_comment() -> None:
    generator = scripted("Hello.")
    generator.gates[0] = asyncio.Event()
    service = replace(service_of(generator, HERMES), timing=Timing(ping_s=0.05))
    async with serving(service) as client:
        body = {"input": "Hi", "stream": True}
        async with client.http.post(client.url + PATH, json=body) as response:
            assert await response.content.readline() == b": ping\n"
            generator.gates[0].set()
            text = (await response.read()).decode()
    assert "event: response.completed" in text

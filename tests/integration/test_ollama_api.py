"""Ollama's API over HTTP; what the model says is scripted."""

import asyncio
import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from device_runtime.api.service import AccessRules, Timing
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
from tests.support.api_server import EOS, MODEL, Client, make_service, serving, story_server
from tests.support.fake_generator import FakeGenerator, always
from tests.support.tokenizers import story_tokenizer

CHAT = "/api/chat"
GENERATE = "/api/generate"
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "How warm is it?"}]}
PROMPTED = {"model": MODEL, "prompt": "How warm is it?"}
FIGURES = {
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
}
BOTH = written(HERMES, ("get_weather", ROME), ("add", SUM))


async def lines(client: Client, path: str, body: Any) -> list[dict[str, Any]]:
    """The objects of a stream, one a line."""
    async with client.http.post(client.url + path, json=body) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "application/x-ndjson"
        text = (await response.read()).decode()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


async def test_a_chat_is_streamed_a_line_at_a_time() -> None:
    async with serving(service_of(scripted("Hello."), HERMES)) as client:
        *told, end = await lines(client, CHAT, ASKED)
        status, whole = await client.post(CHAT, {**ASKED, "stream": False})
    assert status == 200
    assert "".join(line["message"]["content"] for line in told) == "Hello."
    assert all(line["message"]["role"] == "assistant" for line in told)
    assert all(line["done"] is False and "done_reason" not in line for line in told)
    assert end["message"] == {"role": "assistant", "content": ""}
    assert whole["message"] == {"role": "assistant", "content": "Hello."}
    for last in (end, whole):
        assert (last["done"], last["done_reason"], last["model"]) == (True, "stop", MODEL)
        assert set(last) >= FIGURES
        assert last["eval_count"] == len("Hello.") + 1
        assert last["prompt_eval_count"] > 0
        assert last["total_duration"] == last["prompt_eval_duration"] + last["eval_duration"]
        assert datetime.fromisoformat(last["created_at"]).tzinfo is not None


async def test_calls_come_whole() -> None:
    body = {**ASKED, "tools": [WEATHER, ADD]}
    async with serving(service_of(scripted(f"Let me look. {BOTH}"), HERMES)) as client:
        told = await lines(client, CHAT, body)
        _, whole = await client.post(CHAT, {**body, "stream": False})
    [calling] = [line["message"] for line in told if "tool_calls" in line["message"]]
    assert "".join(line["message"]["content"] for line in told) == "Let me look."
    assert whole["message"]["content"] == "Let me look."
    for message in (calling, whole["message"]):
        functions = [call["function"] for call in message["tool_calls"]]
        assert functions == [
            {"index": 0, "name": "get_weather", "arguments": ROME},
            {"index": 1, "name": "add", "arguments": SUM},
        ]
    assert told[-1]["done_reason"] == whole["done_reason"] == "stop"


async def test_a_prompt_is_answered_or_continued() -> None:
    generator = scripted("Hello.")
    async with serving(thinking_service(generator)) as client:
        *told, end = await lines(client, GENERATE, PROMPTED)
        status, whole = await client.post(GENERATE, {**PROMPTED, "stream": False, "raw": True})
    assert status == 200
    assert "".join(line["response"] for line in told) == "Hello."
    assert all("message" not in line for line in [*told, end, whole])
    assert (end["response"], whole["response"]) == ("", "Hello.")
    assert set(end) >= FIGURES
    asked, raw = (story_tokenizer().decode(list(r.prompt_ids)) for r in generator.requests)
    assert asked == "[user] How warm is it?\n[assistant] "
    assert raw == "How warm is it?"
    # As Ollama does it, a raw text begins as the tokenizer wants texts to begin.
    assert list(generator.requests[1].prompt_ids) == story_tokenizer().encode(raw, True)


async def test_an_answer_that_has_begun_goes_on() -> None:
    generator = scripted("warm.")
    turns = [*ASKED["messages"], {"role": "assistant", "content": "It is"}]
    async with serving(thinking_service(generator)) as client:
        await lines(client, CHAT, {**ASKED, "messages": turns})
    prompt = story_tokenizer().decode(list(generator.requests[0].prompt_ids))
    assert prompt == "[user] How warm is it?\n[assistant] It is"


@pytest.mark.parametrize("fields", [{}, {"raw": True}])
@pytest.mark.parametrize("num_predict", [None, -1, 99_999])
async def test_an_answer_may_be_as_long_as_there_is_room(
    fields: dict[str, Any], num_predict: int | None
) -> None:
    generator = FakeGenerator(always(ids_of("Hello. ")), max_context_tokens=64)
    body = {**PROMPTED, **fields, "stream": False, "options": {"num_predict": num_predict}}
    async with serving(make_service(generator)) as client:
        status, told = await client.post(GENERATE, body)
    assert status == 200, told
    assert told["prompt_eval_count"] + told["eval_count"] == 64
    assert told["done_reason"] == "length"


async def test_thoughts_stand_beside_the_answer() -> None:
    for path, body in ((CHAT, ASKED), (GENERATE, PROMPTED)):
        async with serving(thinking_service(scripted("<think>Hm.</think>Warm."))) as client:
            told = await lines(client, path, {**body, "think": True})
            _, whole = await client.post(path, {**body, "stream": False})
        if path == CHAT:
            told, whole = [line["message"] for line in told], whole["message"]
        said = "content" if path == CHAT else "response"
        assert "".join(line.get("thinking", "") for line in told) == "Hm."
        assert "".join(line[said] for line in told) == "Warm."
        assert (whole["thinking"], whole[said]) == ("Hm.", "Warm.")


async def test_thinking_can_be_turned_off() -> None:
    generator = scripted("Warm.")
    async with serving(thinking_service(generator)) as client:
        await lines(client, CHAT, {**ASKED, "think": False})
    prompt = story_tokenizer().decode(list(generator.requests[0].prompt_ids))
    assert prompt.endswith("<think></think>")


@pytest.mark.parametrize("path", [CHAT, GENERATE])
async def test_an_answer_is_held_to_its_format(path: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}
    for format_, fits in (("json", True), (schema, False)):
        generator = scripted("{}")
        async with serving(service_of(generator, HERMES)) as client:
            await lines(client, path, {**ASKED, **PROMPTED, "format": format_})
        grammar = generator.requests[0].grammar
        assert grammar is not None
        assert (grammar.start().num_valid((), ids_of("{}")) == 2) is fits
        assert grammar.start().num_valid((), ids_of('{"a": null}')) == len('{"a": null}')


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"keep_alive": "5m"}),
        (CHAT, {"messages": []}),
        (GENERATE, {}),
        (GENERATE, {"prompt": "", "keep_alive": 0}),
    ],
)
async def test_who_only_wants_the_model_loaded_is_told_it_is(
    path: str, body: dict[str, Any]
) -> None:
    generator = scripted("Hello.")
    async with serving(make_service(generator)) as client:
        status, told = await client.post(path, {"model": f"{MODEL}:latest", **body})
    assert status == 200
    assert (told["done"], told["done_reason"], told["model"]) == (True, "load", MODEL)
    assert ("message" in told) is (path == CHAT)
    assert not generator.requests


async def test_names_may_have_the_tag_of_the_latest() -> None:
    async with serving(make_service(scripted("Hello."))) as client:
        for path, given in ((CHAT, ASKED), (GENERATE, PROMPTED), ("/api/show", {})):
            body = {**given, "model": f"{MODEL}:latest", "stream": False}
            status, told = await client.post(path, body)
            assert status == 200, told
            status, told = await client.post(path, {**body, "model": "llama3:8b"})
            assert status == 404
            assert list(told) == ["error"]
            assert "'llama3:8b' does not exist; this server has 'stories260k'" in told["error"]


async def test_a_model_may_be_served_with_a_tag() -> None:
    service = make_service(scripted("Hello."))
    card = replace(service.model, id="m:latest", aliases=("n:8b",))
    async with serving(replace(service, model=card)) as client:
        for name in ("m:latest", "n:8b"):
            status, told = await client.post(CHAT, {**ASKED, "model": name, "stream": False})
            assert status == 200, told


async def test_what_is_served_is_listed() -> None:
    async with story_server() as (client, _):
        for path in ("/api/tags", "/api/ps"):
            async with client.http.get(client.url + path) as response:
                [listed] = (await response.json())["models"]
            assert (listed["name"], listed["model"]) == (MODEL, MODEL)
            assert len(listed["digest"]) == 64
            assert listed["details"]["family"] == "hat"
        async with client.http.get(client.url + "/api/version") as response:
            version = (await response.json())["version"]
        assert [part.isdigit() for part in version.split(".")] == [True] * 3
        for field in ("model", "name"):
            status, shown = await client.post("/api/show", {field: MODEL})
            assert status == 200
            assert shown["model_info"]["hat.context_length"] == 512
            assert shown["model_info"]["general.architecture"] == "hat"
            assert shown["model_info"]["general.basename"] == MODEL
            assert "repeat_penalty 1.0" in shown["parameters"].splitlines()
            assert shown["capabilities"] == ["completion", "tools"]
        assert (await client.post("/api/show", {}))[0] == 400
    async with serving(thinking_service(scripted(""))) as client:
        _, shown = await client.post("/api/show", {"model": MODEL})
    assert "thinking" in shown["capabilities"]


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings", "/v1/embeddings"])
async def test_embeddings_are_refused_with_the_reason(path: str) -> None:
    async with story_server() as (client, _):
        status, told = await client.post(path, {"model": MODEL, "input": "x"})
    assert status == 501
    message = told["error"] if path.startswith("/api/") else told["error"]["message"]
    assert message.startswith("embeddings are not served here")


async def test_what_manages_models_is_not_here() -> None:
    async with story_server() as (client, _):
        status, told = await client.post("/api/pull", {"model": MODEL})
    assert status == 404
    assert told["error"].startswith("POST /api/pull is not served here; what is: ")


async def test_a_silent_stream_sends_what_clients_read_over() -> None:
    # Clients take every line for an object, so an empty one would be an error to them.
    gate = asyncio.Event()
    generator = FakeGenerator(always([*ids_of("Hello."), EOS]), gates={0: gate})
    service = make_service(generator, timing=Timing(ping_s=0.01))
    async with (
        serving(service) as client,
        client.http.post(client.url + CHAT, json=ASKED) as response,
    ):
        first = await response.content.readexactly(2)
        gate.set()
        told = (first + await response.read()).decode().split("\n")
    assert first == b"  "
    assert told.pop() == ""
    assert "".join(json.loads(line)["message"]["content"] for line in told) == "Hello."


async def test_a_fault_in_mid_stream_is_the_last_line() -> None:
    generator = FakeGenerator(
        always(ids_of("Hello.")), errors={3: CloudUnavailableError("the cloud is away", 1.0)}
    )
    async with serving(make_service(generator)) as client:
        *told, fault = await lines(client, CHAT, ASKED)
        status, whole = await client.post(CHAT, {**ASKED, "stream": False})
    assert "".join(line["message"]["content"] for line in told) == "Hel"
    assert fault == whole == {"error": "the cloud is away"}
    assert status == 503


async def test_half_a_call_is_an_error_in_ollamas_words() -> None:
    half = BOTH[:-20]
    body = {**ASKED, "tools": [WEATHER, ADD], "options": {"num_predict": len(half)}}
    async with serving(service_of(scripted(half), HERMES)) as client:
        status, told = await client.post(CHAT, {**body, "stream": False})
    assert status == 400
    assert told == {
        "error": "num_predict ended the answer in the middle of a call of the tool 'add'"
    }


@pytest.mark.parametrize(
    ("fields", "begin"),
    [
        ({"format": {"type": 3}}, "format: "),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name: expected different names"),
        ({"messages": [{"role": "critic", "content": ""}]}, "messages[0].role: expected one of"),
        ({"messages": "Hello"}, "messages: expected `array | null`"),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [{"function": {"name": "x", "arguments": 3}}],
                    }
                ]
            },
            "messages[0].tool_calls[0].function.arguments: expected a JSON object",
        ),
        ({"options": {"stop": "x" * 40_000}}, "options.stop: expected at most"),
        ({"options": {"num_predict": "many"}}, "options.num_predict: expected `int | null`"),
    ],
)
async def test_faults_are_one_sentence(fields: dict[str, Any], begin: str) -> None:
    async with serving(service_of(scripted("Hello."), HERMES)) as client:
        status, told = await client.post(CHAT, {**ASKED, **fields})
    assert status == 400
    assert list(told) == ["error"]
    assert told["error"].startswith(begin), told


async def test_without_the_key_nothing_is_told() -> None:
    async with story_server(access=AccessRules(api_key="right")) as (client, _):
        status, told = await client.post(CHAT, ASKED)
        assert status == 401
        assert list(told) == ["error"]
        headers = {"Authorization": "Bearer right"}
        async with client.http.get(client.url + "/api/tags", headers=headers) as response:
            assert response.status == 200

"""The acceptance cases of the Open Responses specification; what the model says is scripted.

Source: https://github.com/openresponses/openresponses, `src/lib/compliance-tests.ts` for the cases
and `schema/responses.tsp` for the fields that a response must have. The case with an image is
refused by name here, since the models that are served read text.
"""

import json
from typing import Any

import pytest

from device_runtime.calling.layouts import HERMES
from tests.integration.test_responses import PATH, client_of, events_of
from tests.integration.test_tool_calls import scripted, written
from tests.support.api_server import MODEL

TEXT, NUMBER = str, (int, float)
NONE = type(None)
FIELDS: dict[str, Any] = {
    "id": TEXT,
    "object": TEXT,
    "created_at": int,
    "completed_at": (int, NONE),
    "status": TEXT,
    "incomplete_details": (dict, NONE),
    "model": TEXT,
    "previous_response_id": (TEXT, NONE),
    "instructions": (TEXT, NONE),
    "output": list,
    "error": (dict, NONE),
    "tools": list,
    "tool_choice": (TEXT, dict),
    "truncation": TEXT,
    "parallel_tool_calls": bool,
    "text": dict,
    "top_p": NUMBER,
    "presence_penalty": NUMBER,
    "frequency_penalty": NUMBER,
    "top_logprobs": int,
    "temperature": NUMBER,
    "reasoning": (dict, NONE),
    "usage": (dict, NONE),
    "max_output_tokens": (int, NONE),
    "max_tool_calls": (int, NONE),
    "store": bool,
    "background": bool,
    "service_tier": TEXT,
    "metadata": dict,
    "safety_identifier": (TEXT, NONE),
    "prompt_cache_key": (TEXT, NONE),
}
EVENT_FIELDS = {
    "response.created": {"response"},
    "response.in_progress": {"response"},
    "response.completed": {"response"},
    "response.output_item.added": {"output_index", "item"},
    "response.output_item.done": {"output_index", "item"},
    "response.content_part.added": {"item_id", "output_index", "content_index", "part"},
    "response.content_part.done": {"item_id", "output_index", "content_index", "part"},
    "response.output_text.delta": {"item_id", "output_index", "content_index", "delta"},
    "response.output_text.done": {"item_id", "output_index", "content_index", "text"},
    "response.function_call_arguments.delta": {"item_id", "output_index", "delta"},
    "response.function_call_arguments.done": {"item_id", "output_index", "arguments"},
}
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "The city, such as San Francisco, CA"}
        },
        "required": ["location"],
    },
}


def user(content: Any) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": content}


WEATHER = {"input": [user("What's the weather like in San Francisco?")], "tools": [TOOL]}
CALL = written(HERMES, ("get_weather", {"location": "San Francisco, CA"}))
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "basic": ("Hello, dear friend.", {"input": [user("Say hello in exactly 3 words.")]}),
    "streaming": ("1, 2, 3, 4, 5", {"input": [user("Count from 1 to 5.")]}),
    "system prompt": (
        "Ahoy!",
        {
            "input": [
                {"type": "message", "role": "system", "content": "You are a pirate."},
                user("Say hello."),
            ]
        },
    ),
    "tool calling": (CALL, WEATHER),
    "multi-turn": (
        "Alice.",
        {
            "input": [
                user("My name is Alice."),
                {"type": "message", "role": "assistant", "content": "Hello Alice!"},
                user("What is my name?"),
            ]
        },
    ),
}


def check(response: dict[str, Any], text: str) -> None:
    """It has what the specification wants, and its output is what the model said."""
    for name, kind in FIELDS.items():
        assert isinstance(response[name], kind), name
    assert response["object"] == "response"
    assert response["status"] == "completed"
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == 0
    [item] = response["output"]
    if text == CALL:
        assert item["type"] == "function_call"
        assert item["name"] == "get_weather"
        assert json.loads(item["arguments"]) == {"location": "San Francisco, CA"}
        assert response["tools"] == [{**TOOL, "strict": None}]
    else:
        assert item["type"] == "message"
        assert item["content"][0]["text"] == text


@pytest.mark.parametrize("case", CASES)
async def test_a_case_as_a_document(case: str) -> None:
    text, body = CASES[case]
    async with client_of(scripted(text)) as client:
        status, response = await client.post(PATH, {"model": MODEL, **body, "stream": False})
    assert status == 200, response
    check(response, text)


@pytest.mark.parametrize("case", CASES)
async def test_a_case_as_a_stream(case: str) -> None:
    text, body = CASES[case]
    async with client_of(scripted(text)) as client:
        events = await events_of(client, model=MODEL, **body)
    for event in events:
        assert EVENT_FIELDS[event["type"]] <= event.keys()
    check(events[-1]["response"], text)
    if text == CALL:
        kinds = {event["type"] for event in events}
        assert {name for name in EVENT_FIELDS if "function_call" in name} <= kinds
        items = [event["item"] for event in events if "item" in event]
        assert [item["type"] for item in items] == ["function_call"] * 2


async def test_the_case_of_a_previous_response() -> None:
    async with client_of(scripted("Alice.")) as client:
        first = {"model": MODEL, "input": [user("My name is Alice.")]}
        _, response = await client.post(PATH, first)
        second = {"input": [user("What is my name?")], "previous_response_id": response["id"]}
        status, answer = await client.post(PATH, {"model": MODEL, **second})
    assert status == 200
    check(answer, "Alice.")
    assert answer["previous_response_id"] == response["id"]


async def test_the_case_of_an_image_is_refused_by_name() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
    content = [{"type": "input_text", "text": "What do you see?"}, image]
    async with client_of(scripted("A heart.")) as client:
        status, answer = await client.post(PATH, {"model": MODEL, "input": [user(content)]})
    assert status == 400
    assert answer["error"]["param"] == "input[0].content[1].type"
    assert answer["error"]["code"] == "unsupported_parameter"

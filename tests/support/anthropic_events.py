"""Requests in Anthropic's words, and the blocks that a stream's events tell."""

import json
from typing import Any

from device_runtime.calling.layouts import HERMES
from tests.integration.test_tool_calls import ROME, SUM, written
from tests.support.api_server import MODEL, Client, serving

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

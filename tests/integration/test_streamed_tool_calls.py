"""Calls of tools in a stream of chat completions: which event tells what of them."""

import json

import pytest

from device_runtime.calling.layouts import HERMES, LAYOUTS, Layout
from tests.integration.test_tool_calls import (
    ADD,
    ROME,
    SUM,
    WEATHER,
    scripted,
    service_of,
    written,
)
from tests.support.api_server import CHAT, USER, serving


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
async def test_a_stream_tells_a_call_piece_by_piece(layout: Layout) -> None:
    words = "Let me look." if layout.begin else ""
    text = f"{words} {written(layout, ('get_weather', ROME))}" if words else ""
    text = text or written(layout, ("get_weather", ROME))
    async with serving(service_of(scripted(text), layout)) as client:
        chunks = await client.chunks(CHAT, {"messages": USER, "tools": [WEATHER]})
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content") or "" for delta in deltas) == words
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    first, *others = calls
    assert first["function"]["name"] == "get_weather"
    assert first["index"] == 0
    assert first["id"]
    assert all("id" not in call and "name" not in call["function"] for call in others)
    assert len(others) > (5 if layout.marks is None else 0)
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert json.loads(arguments) == ROME
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("tokens_per_round", [1, 7, 64, 500])
async def test_an_event_tells_of_one_call_once(tokens_per_round: int) -> None:
    calls = [("get_weather", ROME), ("add", SUM)]
    generator = scripted(written(HERMES, *calls))
    generator.tokens_per_round = tokens_per_round
    async with serving(service_of(generator, HERMES)) as client:
        chunks = await client.chunks(CHAT, {"messages": USER, "tools": [WEATHER, ADD]})
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    told = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert all(len(calls) == 1 for calls in told)
    for place, (name, arguments) in enumerate(calls):
        pieces = [call["function"] for [call] in told if call["index"] == place]
        assert [piece["name"] for piece in pieces if "name" in piece] == [name]
        assert json.loads("".join(piece["arguments"] for piece in pieces)) == arguments


@pytest.mark.parametrize("tokens_per_round", [1, 9, 10, 11, 64])
async def test_what_might_have_begun_a_call_is_words_at_the_end(tokens_per_round: int) -> None:
    text = "I think <tool"
    generator = scripted(text)
    generator.tokens_per_round = tokens_per_round
    async with serving(service_of(generator, HERMES)) as client:
        chunks = await client.chunks(CHAT, {"messages": USER, "tools": [WEATHER]})
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == text
    assert deltas[-1] == {}

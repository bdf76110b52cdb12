"""Tools that others wrote: questions of a public leaderboard, by every family's layout."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from device_runtime.calling.grammar import call_grammar
from device_runtime.calling.layouts import LAYOUTS, Layout
from device_runtime.calling.reader import CallReader
from device_runtime.calling.tools import Offer, Tool
from device_runtime.generation.parts import Call, Words, joined
from device_runtime.grammar.compiling import Grammars
from device_runtime.grammar.wanted import Lark
from tests.integration.test_tool_calls import ids_of, scripted, service_of
from tests.support.api_server import CHAT, EOS, serving
from tests.support.tokenizers import story_tokenizer

_FILE = Path(__file__).parents[1] / "data" / "bfcl.jsonl"
QUESTIONS: list[dict[str, Any]] = [json.loads(line) for line in _FILE.read_text().splitlines()]
_GRAMMARS = Grammars(story_tokenizer().as_json(), 512, (EOS,))


def _calls(question: dict[str, Any], layout: Layout) -> list[tuple[str, dict[str, Any]]]:
    calls = [(call["name"], call["arguments"]) for call in question["calls"]]
    return calls if layout.between is not None else calls[:1]


def _tools(question: dict[str, Any]) -> tuple[Tool, ...]:
    functions = [tool["function"] for tool in question["tools"]]
    return tuple(Tool(each["name"], each["parameters"], "tools") for each in functions)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
def test_right_answers_are_allowed_and_read_back(layout: Layout) -> None:
    rng = random.Random(layout.name)
    for question in QUESTIONS:
        offer, calls = Offer(_tools(question)), _calls(question, layout)
        words = "I look it up.\n" if layout.begin else ""
        text = words + layout.written(calls)
        constraint = _GRAMMARS.compile(Lark(call_grammar(layout, offer, {}))).start()
        ids = ids_of(text)
        assert constraint.num_valid((), ids) == len(ids), question["id"]
        assert constraint.allowed(ids)[EOS], question["id"]
        reader, parts = CallReader(layout, offer, str), []
        while text:
            size = rng.randint(1, 9)
            parts += reader.read(text[:size])
            text = text[size:]
        more, end = reader.end("stop")
        whole = joined([*parts, *more])
        read = [(p.name, json.loads(p.arguments)) for p in whole if isinstance(p, Call)]
        assert read == calls, question["id"]
        assert [p.text for p in whole if isinstance(p, Words)] == [words.rstrip()][: bool(words)]
        assert end == "tool_calls"


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
async def test_they_are_told_over_http(layout: Layout) -> None:
    for question in QUESTIONS[:: len(LAYOUTS)]:
        calls = _calls(question, layout)
        body = {"messages": question["messages"], "tools": question["tools"]}
        async with serving(service_of(scripted(layout.written(calls)), layout)) as client:
            status, answer = await client.post(CHAT, body)
        assert status == 200, answer
        told = [call["function"] for call in answer["choices"][0]["message"]["tool_calls"]]
        assert [(each["name"], json.loads(each["arguments"])) for each in told] == calls

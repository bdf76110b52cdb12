"""What the grammar of an answer with calls allows, whatever the model would go on with."""

import json
from typing import Any

import pytest

from device_runtime.calling.grammar import MAX_CALLS, call_grammar
from device_runtime.calling.layouts import (
    GENERIC,
    GLM_45,
    HERMES,
    LAYOUTS,
    PYTHONIC,
    QWEN3_CODER,
    Layout,
)
from device_runtime.calling.reader import CallReader
from device_runtime.calling.tools import Offer, Tool
from device_runtime.generation.grammar import Grammar, GrammarError
from device_runtime.generation.parts import Call, joined
from device_runtime.grammar.compiling import Grammars
from device_runtime.grammar.wanted import Lark
from tests.integration.test_tool_calls import ids_of, written
from tests.support.api_server import EOS
from tests.support.tokenizers import story_tokenizer


@pytest.mark.parametrize("layout", [HERMES, GENERIC], ids=lambda layout: layout.name)
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_calls_come_to_an_end(layout: Layout, choice: str) -> None:
    tool = Tool("go", {"properties": {}, "additionalProperties": False}, "tools[0]")
    offer = Offer((tool,), "required" if choice == "required" else "auto")
    text = call_grammar(layout, offer, story_tokenizer().special_ids)
    grammar = Grammars(story_tokenizer().as_json(), 512, (EOS,)).compile(Lark(text))
    for num_calls in (1, 2, MAX_CALLS, MAX_CALLS + 1):
        ids = ids_of(written(layout, *[("go", {})] * num_calls))
        constraint = grammar.start()
        fits = constraint.num_valid((), ids) == len(ids) and bool(constraint.allowed(ids)[EOS])
        assert fits is (num_calls <= MAX_CALLS), num_calls


def compiled(layout: Layout, *tools: Tool) -> Grammar:
    text = call_grammar(layout, Offer(tools), story_tokenizer().special_ids)
    return Grammars(story_tokenizer().as_json(), 512, (EOS,)).compile(Lark(text))


def is_allowed(grammar: Grammar, text: str) -> bool:
    constraint, ids = grammar.start(), ids_of(text)
    return constraint.num_valid((), ids) == len(ids) and bool(constraint.allowed(ids)[EOS])


def read(layout: Layout, text: str, *tools: Tool) -> list[tuple[str, Any]]:
    """What is told of calls that come one character at a time."""
    reader = CallReader(layout, Offer(tools), str)
    parts = [part for character in text for part in reader.read(character)]
    more, end = reader.end("stop")
    assert end == "tool_calls"
    whole = joined([*parts, *more])
    return [(part.name, json.loads(part.arguments)) for part in whole if isinstance(part, Call)]


def tool(name: str, properties: dict[str, Any], *required: str, **more: Any) -> Tool:
    return Tool(name, {"properties": properties, "required": list(required)}, "tools[0]", **more)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
def test_a_name_may_begin_another_and_calls_may_have_no_arguments(layout: Layout) -> None:
    tools = [tool(name, {"x": {"type": "integer"}}) for name in ("get", "get_all", "get_al")]
    grammar = compiled(layout, *tools)
    for name in ("get", "get_all", "get_al"):
        for values in ({}, {"x": 7}):
            text = layout.written([(name, values)])
            assert is_allowed(grammar, text)
            assert read(layout, text, *tools) == [(name, values)]


ODD: list[dict[str, Any]] = [
    {"text": "a, b=c)]", "flag": True},
    {"text": ""},
    {"flag": False, "list": [True, "]", {"a": None}]},
    {"none": None, "any": False},
    {"any": {"x": [1.5, ")"]}},
    {"any": 'say "\\n" \\ and <tag>\n\n', "number": -1e-7},
    {"maybe": None, "text": "é😀\u2028"},
    {"maybe": True},
    {},
]


@pytest.mark.parametrize("values", ODD)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
def test_odd_values_are_allowed_and_read_back(layout: Layout, values: dict[str, Any]) -> None:
    properties = {
        "text": {"type": "string"},
        "flag": {"type": "boolean"},
        "list": {"type": "array"},
        "none": {"type": "null"},
        "any": {},
        "number": {"type": "number"},
        "maybe": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    }
    ordered = {name: values[name] for name in properties if name in values}
    put = tool("put", properties)
    text = layout.written([("put", ordered)])
    assert is_allowed(compiled(layout, put), text)
    assert read(layout, text, put) == [("put", ordered)]


def test_python_calls_take_json_words_too_and_nothing_else() -> None:
    put = tool("put", {"a": {"type": "boolean"}, "b": {"type": "integer"}, "c": {}}, "b")
    grammar = compiled(PYTHONIC, put)
    for text in ("a=true, b=1", "a=False, b=1, c=null", "b=1, c=None", "b=1"):
        assert is_allowed(grammar, f"[put({text})]"), text
        assert read(PYTHONIC, f"[put({text})]", put)
    for text in ("a=true", "b=True", "b=1,c=1", "a=None, b=1", "b='x'", "", "b=1, ", ", b=1"):
        assert not is_allowed(grammar, f"[put({text})]"), text
    assert is_allowed(grammar, "Just words, no [list].")


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"type": "boolean", "const": True}, {"type": "integer"}]},
        {"anyOf": [{"type": "boolean", "enum": [True]}, {"type": "null"}]},
        {"type": "boolean", "anyOf": [{"const": True}, {"type": "string"}]},
        {"type": "boolean", "enum": [True]},
        {"$ref": "#/$defs/yes", "$defs": {"yes": {"const": True}}},
    ],
)
def test_python_words_say_nothing_that_the_schema_forbids(schema: dict[str, Any]) -> None:
    shared = {"$defs": schema.pop("$defs", {})}
    put = Tool("put", {"properties": {"a": schema}, "required": ["a"], **shared}, "tools[0]")
    grammar = compiled(PYTHONIC, put)
    assert is_allowed(grammar, "[put(a=true)]")
    assert not is_allowed(grammar, "[put(a=False)]")
    assert not is_allowed(grammar, "[put(a=false)]")


@pytest.mark.parametrize("layout", [QWEN3_CODER, GLM_45, PYTHONIC], ids=lambda layout: layout.name)
def test_what_may_not_be_there_is_not_written(layout: Layout) -> None:
    name = f"a{layout.marks.named if layout.marks else ''}b"
    odd = tool("put", {"no": False, name: {"type": "integer"}, "yes": {"type": "integer"}})
    grammar = compiled(layout, odd)
    assert is_allowed(grammar, layout.written([("put", {"yes": 1})]))
    assert not is_allowed(grammar, layout.written([("put", {"no": 1})]))
    assert not is_allowed(grammar, layout.written([("put", {name: 1})]))
    for required in ("no", name):
        with pytest.raises(GrammarError, match="required and cannot be written"):
            compiled(layout, tool("put", {"no": False, name: {}}, required))
    assert compiled(layout, Tool("put", {"properties": {"a": {}}, "required": 3}, "tools[0]"))


@pytest.mark.parametrize("layout", [QWEN3_CODER, GLM_45, PYTHONIC], ids=lambda layout: layout.name)
def test_a_text_of_a_schema_that_reads_like_a_token_of_control_is_a_text(layout: Layout) -> None:
    assert "</s>" in story_tokenizer().special_ids
    put = tool("put", {"how": {"type": "string", "enum": ["</s>", "a<s>b", ""]}})
    grammar = compiled(layout, put)
    for how in ("</s>", "a<s>b", ""):
        text = layout.written([("put", {"how": how})])
        assert is_allowed(grammar, text)
        assert read(layout, text, put) == [("put", {"how": how})]
    with pytest.raises(GrammarError, match="required and cannot be written"):
        compiled(layout, tool("put", {"</s>": {}}, "</s>"))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
def test_what_stops_an_answer_behind_whole_arguments_leaves_a_call(layout: Layout) -> None:
    put = tool("put", {"a": {"type": "integer"}})
    text = layout.written([("put", {"a": 1})])
    behind = layout.tail + layout.end
    for num_left in range(len(layout.marks.end) if layout.marks else 0, len(behind) + 1):
        cut = text[: len(text) - len(behind) + num_left]
        assert read(layout, cut, put) == [("put", {"a": 1})], cut

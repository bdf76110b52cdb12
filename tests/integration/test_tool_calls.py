"""Tools over HTTP: what the model says is scripted, so the words are not the model's fault."""

import json
from typing import Any

import pytest

from device_runtime.calling.grammar import call_grammar
from device_runtime.calling.layouts import (
    GENERIC,
    HERMES,
    LAYOUTS,
    MISTRAL,
    MISTRAL_ARGS,
    Layout,
)
from device_runtime.calling.tools import Offer, Tool
from device_runtime.grammar.compiling import Grammars
from device_runtime.grammar.wanted import Lark
from tests.support.api_server import CHAT, EOS, USER, Client, make_service, serving
from tests.support.fake_generator import FakeGenerator, always
from tests.support.tokenizers import story_tokenizer

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
            "required": ["a", "b"],
        },
    },
}
ROME = {"city": "Rome", "days": 2}
SUM = {"a": 1, "b": -2.5}


def written(layout: Layout, *calls: tuple[str, dict[str, Any]]) -> str:
    """Calls as a model of this family writes them."""
    return layout.written(calls)


def ids_of(text: str) -> list[int]:
    """Tokens that say the text, byte by byte where the tokenizer has no better."""
    tokenizer = story_tokenizer()
    by_bytes = {tokenizer.token_bytes(token): token for token in range(3, 512)}
    return [by_bytes[bytes([byte])] for byte in text.encode()]


def scripted(text: str, end: int | None = EOS) -> FakeGenerator:
    ids = [*ids_of(text), *([] if end is None else [end])]
    return FakeGenerator(always(ids), max_context_tokens=8192)


def service_of(generator: FakeGenerator, layout: Layout) -> Any:
    grammars = Grammars(story_tokenizer().as_json(), 512, (EOS,))
    return make_service(generator, call_layout=layout, grammars=grammars)


async def ask(text: str, layout: Layout = HERMES, **fields: Any) -> tuple[int, Any]:
    body = {"messages": USER, "tools": [WEATHER, ADD], **fields}
    async with serving(service_of(scripted(text), layout)) as client:
        return await client.post(CHAT, body)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
async def test_calls_are_told_as_openai_tells_them(layout: Layout) -> None:
    calls = [("get_weather", ROME), ("add", SUM)]
    if layout.between is None:
        del calls[1:]
    status, answer = await ask(written(layout, *calls), layout)
    assert status == 200
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert message["content"] is None
    told = message["tool_calls"]
    assert [call["function"]["name"] for call in told] == [name for name, _ in calls]
    assert [json.loads(call["function"]["arguments"]) for call in told] == [v for _, v in calls]
    assert all(call["type"] == "function" for call in told)
    assert len({call["id"] for call in told}) == len(calls)
    assert all(call["id"].startswith(layout.id_prefix) for call in told)


async def test_words_alone_are_words() -> None:
    status, answer = await ask("I think <tool> is no mark")
    assert status == 200
    [choice] = answer["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "I think <tool> is no mark",
        "refusal": None,
    }
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("is_cut", [True, False])
async def test_half_a_call_is_an_error_that_says_so(is_cut: bool) -> None:
    half = written(HERMES, ("get_weather", ROME))[:-20]
    body = {"messages": USER, "tools": [WEATHER]}
    if is_cut:
        body["max_tokens"] = len(ids_of(half))
    async with serving(service_of(scripted(half), HERMES)) as client:
        status, answer = await client.post(CHAT, body)
        assert status == 400
        assert answer["error"]["code"] == "tool_call_incomplete"
        assert "get_weather" in answer["error"]["message"]
        events = await client.events(CHAT, body)
        assert json.loads(events[-1])["error"]["code"] == "tool_call_incomplete"


async def seen(fields: dict[str, Any], layout: Layout = HERMES) -> FakeGenerator:
    generator = scripted("Hello")
    async with serving(service_of(generator, layout)) as client:
        status, answer = await client.post(CHAT, {"messages": USER, **fields})
        assert status == 200, answer
    return generator


@pytest.mark.parametrize(
    ("choice", "texts"),
    [
        (None, {"words": True, "rome": True, "sum": True, "both": True}),
        ("auto", {"words": True, "rome": True, "sum": True, "both": True}),
        ("required", {"words": False, "rome": True, "sum": True, "both": True}),
        (
            {"type": "function", "function": {"name": "add"}},
            {"words": False, "rome": False, "sum": True, "both": False},
        ),
    ],
)
async def test_the_grammar_is_what_the_choice_says(choice: Any, texts: dict[str, bool]) -> None:
    generator = await seen({"tools": [WEATHER, ADD], "tool_choice": choice})
    [request] = generator.requests
    assert request.grammar is not None
    own = {
        "words": "Hello, no call.",
        "rome": written(HERMES, ("get_weather", ROME)),
        "sum": written(HERMES, ("add", SUM)),
        "both": written(HERMES, ("get_weather", ROME), ("add", SUM)),
    }
    for name, text in own.items():
        constraint, ids = request.grammar.start(), ids_of(text)
        fits = constraint.num_valid((), ids) == len(ids) and bool(constraint.allowed(ids)[EOS])
        assert fits is texts[name], name
    wrong = written(HERMES, ("get_weather", {"town": "Rome"}))
    assert request.grammar.start().num_valid((), ids_of(wrong)) < len(wrong)


async def test_one_call_alone_where_they_may_not_be_parallel() -> None:
    generator = await seen({"tools": [WEATHER, ADD], "parallel_tool_calls": False})
    [request] = generator.requests
    assert request.grammar is not None
    ids = ids_of(written(HERMES, ("get_weather", ROME), ("add", SUM)))
    assert request.grammar.start().num_valid((), ids) < len(ids)


async def test_beside_tools_an_answer_in_words_fits_the_schema() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "null"}}, "required": ["x"]}
    format_ = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    generator = await seen({"tools": [ADD], "response_format": format_})
    [request] = generator.requests
    assert request.grammar is not None
    for text, fits in (('{"x": null}', True), (written(HERMES, ("add", SUM)), True), ("x", False)):
        ids = ids_of(text)
        assert (request.grammar.start().num_valid((), ids) == len(ids)) is fits


@pytest.mark.parametrize("choice", ["none", None])
async def test_without_tools_or_with_none_nothing_is_held(choice: str | None) -> None:
    fields = {"tools": [ADD], "tool_choice": "none"} if choice else {"tools": []}
    [request] = (await seen(fields)).requests
    assert request.grammar is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": "sometimes"}, "tool_choice"),
        (
            {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name",
        ),
        ({"tools": [ADD, ADD]}, "tools[1].function.name"),
        (
            {
                "tools": [
                    ADD,
                    {
                        "type": "function",
                        "function": {"name": "x", "parameters": {"properties": {"y": {"type": 3}}}},
                    },
                ]
            },
            "tools[1].function.parameters",
        ),
        (
            {"messages": [*USER, {"role": "user", "content": "x", "tool_calls": []}]},
            None,
        ),
    ],
)
async def test_tools_that_cannot_be_offered_are_named(
    fields: dict[str, Any], param: str | None
) -> None:
    async with serving(service_of(scripted("Hello"), HERMES)) as client:
        status, answer = await client.post(CHAT, {"messages": USER, **fields})
    if param is None:
        assert status == 200
        return
    assert status == 400, answer
    assert answer["error"]["param"] == param


async def conversation(client: Client) -> tuple[int, Any]:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": json.dumps(ROME)},
    }
    messages = [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "It is sunny."},
    ]
    return await client.post(CHAT, {"messages": messages, "tools": [WEATHER]})


async def test_a_model_whose_template_knows_no_tools_is_told_in_words() -> None:
    generator = scripted("Sunny.")
    async with serving(service_of(generator, GENERIC)) as client:
        status, answer = await conversation(client)
    assert status == 200, answer
    [request] = generator.requests
    prompt = story_tokenizer().decode(list(request.prompt_ids))
    assert "get_weather" in prompt
    assert "It is sunny." in prompt
    assert json.dumps(ROME) in prompt
    assert "The weather of a city." in prompt


ALLOWED = {
    "type": "allowed_tools",
    "allowed_tools": {
        "mode": "required",
        "tools": [{"type": "function", "function": {"name": "add"}}],
    },
}


async def test_some_of_the_tools_may_be_allowed_and_all_are_told() -> None:
    generator = await seen({"tools": [WEATHER, ADD], "tool_choice": ALLOWED}, GENERIC)
    [request] = generator.requests
    assert request.grammar is not None
    for text, fits in (
        (written(GENERIC, ("add", SUM)), True),
        (written(GENERIC, ("add", SUM), ("add", SUM)), True),
        (written(GENERIC, ("get_weather", ROME)), False),
        ("Hello", False),
    ):
        ids = ids_of(text)
        assert (request.grammar.start().num_valid((), ids) == len(ids)) is fits
    assert "get_weather" in story_tokenizer().decode(list(request.prompt_ids))


@pytest.mark.parametrize(
    "allowed", [None, {"mode": "none", "tools": []}, {"mode": "auto", "tools": []}]
)
async def test_allowed_tools_that_say_nothing_are_named(allowed: Any) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    async with serving(service_of(scripted("Hello"), HERMES)) as client:
        body = {"messages": USER, "tools": [ADD], "tool_choice": choice}
        status, answer = await client.post(CHAT, body)
    assert status == 400
    assert answer["error"]["param"] == "tool_choice.allowed_tools"


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
async def test_arguments_hold_to_enums_and_have_no_property_that_is_not_listed(
    layout: Layout,
) -> None:
    properties = {"unit": {"type": "string", "enum": ["C", "F"]}, "note": {"type": "string"}}
    parameters = {"type": "object", "properties": properties, "required": ["unit"]}
    tool = {"type": "function", "function": {"name": "heat", "parameters": parameters}}
    [request] = (await seen({"tools": [tool], "tool_choice": "required"}, layout)).requests
    assert request.grammar is not None
    for values, fits in (
        ({"unit": "C"}, True),
        ({"unit": "F", "note": "größe"}, True),
        ({"unit": "K"}, False),
        ({"unit": "C", "other": 1}, False),
        ({"note": "x"}, False),
    ):
        ids = ids_of(written(layout, ("heat", values)))
        assert (request.grammar.start().num_valid((), ids) == len(ids)) is fits, values


def test_a_mark_of_qwen_begins_a_call_whatever_follows_it() -> None:
    grammars = Grammars(story_tokenizer().as_json(), 512, (EOS,))
    text = call_grammar(HERMES, Offer((Tool("add", {}, "tools"),)), {})
    constraint = grammars.compile(Lark(text)).start()
    ids = ids_of('Look: <tool_call>{"name"')
    assert constraint.num_valid((), ids) == len(ids_of("Look: <tool_call>"))


@pytest.mark.parametrize("layout", [MISTRAL, MISTRAL_ARGS], ids=lambda layout: layout.name)
async def test_a_models_own_id_is_passed_over(layout: Layout) -> None:
    text = written(layout, ("add", SUM), ("add", SUM))
    text = text.replace("}}", '}, "id": "abcdef012"}').replace("[ARGS]", "[CALL_ID]abcdef012[ARGS]")
    async with serving(service_of(scripted(text), layout)) as client:
        body = {"messages": USER, "tools": [ADD], "tool_choice": "required"}
        status, answer = await client.post(CHAT, body)
        assert status == 200, answer
    first, second = answer["choices"][0]["message"]["tool_calls"]
    assert json.loads(first["function"]["arguments"]) == SUM
    assert first["id"] != second["id"]
    grammars = Grammars(story_tokenizer().as_json(), 512, (EOS,))
    offer = Offer((Tool("add", ADD["function"]["parameters"], "tools"),))  # type: ignore[index]
    ids = ids_of(text)
    constraint = grammars.compile(Lark(call_grammar(layout, offer, {}))).start()
    assert constraint.num_valid((), ids) == len(ids)


async def test_a_stop_string_within_a_call_is_named_and_one_for_its_mark_does_no_harm() -> None:
    text = written(HERMES, ("get_weather", ROME))
    status, answer = await ask(text, stop=["Rome"])
    assert status == 400
    assert answer["error"]["param"] == "stop"
    assert "stop" in answer["error"]["message"]
    assert "get_weather" in answer["error"]["message"]
    status, answer = await ask(text, stop=["</tool_call>"])
    assert status == 200, answer
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    [call] = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == ROME

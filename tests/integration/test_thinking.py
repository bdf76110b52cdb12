"""Thoughts over HTTP, apart from the answer; what the model says is scripted."""

import json
from typing import Any

import pytest

from device_runtime.grammar.compiling import Grammars
from device_runtime.text.chat_template import ChatTemplate
from device_runtime.thinking.marks import THINK, marks_of
from tests.integration.test_tool_calls import HERMES, ROME, WEATHER, scripted, written
from tests.support.api_server import CHAT, EOS, USER, make_service, serving
from tests.support.fake_generator import FakeGenerator
from tests.support.tokenizers import story_tokenizer

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] "
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] "
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{% if effort is defined %}<think>{% endif %}{% endif %}"
)


def service_of(generator: FakeGenerator) -> Any:
    grammars = Grammars(story_tokenizer().as_json(), 512, (EOS,))
    return make_service(
        generator,
        template=ChatTemplate(TEMPLATE, {}),
        thought_marks=marks_of(TEMPLATE),
        call_layout=HERMES,
        grammars=grammars,
    )


def test_marks_are_found_in_the_template() -> None:
    assert marks_of(TEMPLATE) == THINK
    assert marks_of("{{ messages }}") is None
    assert marks_of(None) is None


@pytest.mark.parametrize(
    ("text", "thought", "answer", "fields"),
    [
        ("<think>\nHm, 4.\n</think>\n\nFour.", "Hm, 4.", "Four.", {}),
        ("Hm, 4.</think>Four.", "Hm, 4.", "Four.", {"chat_template_kwargs": {"effort": 1}}),
        ("Four.", None, "Four.", {}),
        ("<think></think>Four.", None, "Four.", {}),
        ("<thin air", None, "<thin air", {}),
    ],
)
async def test_thoughts_are_told_apart_from_the_answer(
    text: str, thought: str | None, answer: str, fields: dict[str, Any]
) -> None:
    async with serving(service_of(scripted(text))) as client:
        body = {"messages": USER, **fields}
        status, document = await client.post(CHAT, body)
        assert status == 200, document
        message = document["choices"][0]["message"]
        assert message["content"] == answer
        assert message.get("reasoning") == message.get("reasoning_content") == thought
        num_thought = document["usage"]["completion_tokens_details"]["reasoning_tokens"]
        assert (num_thought > 0) is (thought is not None)
        assert num_thought < document["usage"]["completion_tokens"]
        deltas = [chunk["choices"][0]["delta"] for chunk in await client.chunks(CHAT, body)]
    assert "".join(delta.get("content") or "" for delta in deltas) == answer
    assert "".join(delta.get("reasoning", "") for delta in deltas) == (thought or "")
    assert all(delta.get("reasoning") == delta.get("reasoning_content") for delta in deltas)


async def test_thoughts_that_do_not_end_are_thoughts() -> None:
    async with serving(service_of(scripted("<think>Hm, I"))) as client:
        status, document = await client.post(CHAT, {"messages": USER, "max_tokens": 12})
    assert status == 200
    [choice] = document["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["reasoning"] == "Hm, I"
    assert choice["message"]["content"] == ""


async def test_a_call_may_follow_thoughts() -> None:
    text = f"<think>I look.</think>\n\n{written(HERMES, ('get_weather', ROME))}"
    async with serving(service_of(scripted(text))) as client:
        status, document = await client.post(CHAT, {"messages": USER, "tools": [WEATHER]})
    assert status == 200, document
    message = document["choices"][0]["message"]
    assert message["reasoning"] == "I look."
    [call] = message["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == ROME


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_earlier_thoughts_reach_the_template_by_either_name(name: str) -> None:
    generator = scripted("Four.")
    messages = [*USER, {"role": "assistant", "content": "Four.", name: "Two and two"}, *USER]
    async with serving(service_of(generator)) as client:
        status, document = await client.post(CHAT, {"messages": messages})
    assert status == 200, document
    [request] = generator.requests
    prompt = story_tokenizer().decode(list(request.prompt_ids))
    assert "<think>Two and two</think>Four." in prompt


@pytest.mark.parametrize(
    ("variables", "texts"),
    [
        ({}, {'<think>x</think>\n{"a": 1}': True, '{"a": 1}': True, "a": False}),
        ({"enable_thinking": False}, {"<think>x</think>{}": False, '{"a": 1}': True}),
        ({"effort": 1}, {'x</think>{"a": 1}': True, '{"a": 1}': False}),
    ],
)
async def test_a_schema_holds_the_answer_and_not_the_thoughts(
    variables: dict[str, Any], texts: dict[str, bool]
) -> None:
    generator = scripted("Hello")
    body = {
        "messages": USER,
        "response_format": {"type": "json_object"},
        "chat_template_kwargs": variables,
    }
    async with serving(service_of(generator)) as client:
        status, document = await client.post(CHAT, body)
        assert status == 200, document
    [request] = generator.requests
    assert request.grammar is not None
    tokenizer = story_tokenizer()
    by_bytes = {tokenizer.token_bytes(token): token for token in range(3, 512)}
    for text, fits in texts.items():
        ids = [by_bytes[bytes([byte])] for byte in text.encode()]
        constraint = request.grammar.start()
        is_whole = constraint.num_valid((), ids) == len(ids) and bool(constraint.allowed(ids)[EOS])
        assert is_whole is fits, text


@pytest.mark.parametrize(
    ("fields", "is_closed"),
    [
        ({}, False),
        ({"enable_thinking": False}, True),
        ({"enable_thinking": True, "reasoning_effort": "none"}, False),
        ({"reasoning_effort": "none"}, True),
        ({"reasoning_effort": "low"}, False),
        ({"chat_template_kwargs": {"enable_thinking": False}, "enable_thinking": True}, True),
    ],
)
async def test_whether_to_think_reaches_the_template(
    fields: dict[str, Any], is_closed: bool
) -> None:
    generator = scripted("Four.")
    async with serving(service_of(generator)) as client:
        status, document = await client.post(CHAT, {"messages": USER, **fields})
    assert status == 200, document
    prompt = story_tokenizer().decode(list(generator.requests[0].prompt_ids))
    assert prompt.endswith("<think></think>") is is_closed

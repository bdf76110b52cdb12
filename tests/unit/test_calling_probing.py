"""How templates tell of tools, found by asking them. The templates are short forms of real ones."""

import json
from typing import Any

import pytest

from device_runtime.calling.history import for_template
from device_runtime.calling.layouts import (
    DEEPSEEK_V3,
    DEEPSEEK_V31,
    FUNCTIONARY,
    GENERIC,
    GLM_45,
    GLM_47,
    HERMES,
    LLAMA3,
    MISTRAL,
    MISTRAL_ARGS,
    MISTRAL_TEKKEN,
    NEMOTRON,
    PYTHONIC,
    QWEN3_CODER,
    XLAM,
    Layout,
)
from device_runtime.calling.probing import IN_WORDS, Telling, find_calls
from device_runtime.calling.words import told_in_words
from device_runtime.text.chat_template import ChatTemplate

TOLD = "{% if tools %}{% for t in tools %}{{ t.function | tojson }}{% endfor %}{% endif %}"


def template(call: str, other: str = "{{ m.content }}", told: str = TOLD) -> str:
    """One that writes calls like this, behind what it tells of tools."""
    return (
        told
        + "{% for m in messages %}<{{ m.role }}>"
        + "{% if m.tool_calls %}{% for c in m.tool_calls %}"
        + call
        + "{% endfor %}{% endif %}"
        + other
        + "{% endfor %}"
    )


def answers(call: str) -> str:
    """The same with a turn of the assistant's that is opened for an answer."""
    return template(call) + "{% if add_generation_prompt %}<assistant>{% endif %}"


ARGUMENTS = "{{ c.function.arguments | tojson }}"
NAME = "{{ c.function.name }}"
OBJECT = f'{{"name": "{NAME}", "arguments": {ARGUMENTS}}}'
WITH_ID = f'{{"name": "{NAME}", "arguments": {ARGUMENTS}, "id": "{{{{ c.id }}}}"}}'
PARAMETERS = (
    "{% for k, v in c.function.arguments.items() %}<parameter={{ k }}>\n{{ v }}\n</parameter>\n"
    "{% endfor %}"
)

CALLS_BEGIN = DEEPSEEK_V31.begin + DEEPSEEK_V31.opening
CALLS_END = DEEPSEEK_V31.tail + DEEPSEEK_V31.end
SEP = DEEPSEEK_V31.after_name
PYTHON = (
    "{{% for k, v in c.function.arguments.items() %}}{{{{ k }}}}={{{{ {} }}}}"
    "{{% if not loop.last %}}, {{% endif %}}{{% endfor %}}"
)


@pytest.mark.parametrize(
    ("source", "layout", "telling"),
    [
        (template(f"<tool_call>\n{OBJECT}\n</tool_call>"), HERMES, Telling("object")),
        (
            template(f"<tool_call>\n{OBJECT}\n</tool_call>".replace(" | tojson", "")),
            HERMES,
            Telling("text"),
        ),
        (
            template(
                f"<tool_call>\n<function={NAME}>\n{PARAMETERS}</function>\n</tool_call>",
            ),
            QWEN3_CODER,
            Telling("object"),
        ),
        (answers(OBJECT.replace("arguments", "parameters", 1)), LLAMA3, Telling("object")),
        (answers(f"[{OBJECT}]"), XLAM, Telling("object")),
        # A mark before them that is not known.
        (answers(f"<|mark|>[{OBJECT}]"), GENERIC, IN_WORDS),
        (answers(f"<|mark|>[{NAME}(" + PYTHON.format("v") + ")]"), GENERIC, IN_WORDS),
        (template(f"<TOOLCALL>[{OBJECT}]</TOOLCALL>"), NEMOTRON, Telling("object")),
        (template(f"[TOOL_CALLS] [{WITH_ID}]"), MISTRAL, Telling("object")),
        (template(f"[TOOL_CALLS][{WITH_ID}]"), MISTRAL_TEKKEN, Telling("object")),
        (template(f"[TOOL_CALLS][{OBJECT}]"), MISTRAL_TEKKEN, Telling("object")),
        (template(f"[TOOL_CALLS]{NAME}[ARGS]{ARGUMENTS}"), MISTRAL_ARGS, Telling("object")),
        (
            template(f"[TOOL_CALLS]{NAME}[CALL_ID]{{{{ c.id }}}}[ARGS]{ARGUMENTS}"),
            MISTRAL_ARGS,
            Telling("object"),
        ),
        (
            template(
                f"<tool_call>{NAME}\n{{% for k, v in c.function.arguments.items() %}}"
                "<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v }}</arg_value>\n{% endfor %}"
                "</tool_call>"
            ),
            GLM_45,
            Telling("object"),
        ),
        (
            template(
                f"<tool_call>{NAME}{{% for k, v in c.function.arguments.items() %}}"
                "<arg_key>{{ k }}</arg_key><arg_value>{{ v }}</arg_value>{% endfor %}</tool_call>"
            ),
            GLM_47,
            Telling("object"),
        ),
        (
            template(f"{CALLS_BEGIN}function{SEP}{NAME}\n```json\n{ARGUMENTS}\n```{CALLS_END}"),
            DEEPSEEK_V3,
            Telling("object"),
        ),
        (
            template(f"{CALLS_BEGIN}{NAME}{SEP}{ARGUMENTS}{CALLS_END}"),
            DEEPSEEK_V31,
            Telling("object"),
        ),
        (template(f"<function={NAME}>{ARGUMENTS}</function>"), FUNCTIONARY, Telling("object")),
        (answers(f"[{NAME}(" + PYTHON.format("v") + ")]"), PYTHONIC, Telling("object")),
        (
            answers(f"[{NAME}(" + PYTHON.format("'\"' ~ v ~ '\"'") + ")]"),
            PYTHONIC,
            Telling("object"),
        ),
        # Known words, but calls of another form, none at all, or tools under another name.
        (template(f"<tool_call>{NAME}<arg>{ARGUMENTS}</arg></tool_call>"), GENERIC, IN_WORDS),
        (template("", told=TOLD + "{# <tool_call> #}"), GENERIC, IN_WORDS),
        (
            template(f"<tool_call>\n{OBJECT}\n</tool_call>", told="{{ xml_tools }}"),
            GENERIC,
            IN_WORDS,
        ),
        (
            template("", "{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"),
            GENERIC,
            Telling(None, has_system=False),
        ),
        (None, GENERIC, IN_WORDS),
    ],
)
def test_a_template_is_asked_for_a_call(
    source: str | None, layout: Layout, telling: Telling
) -> None:
    asked = ChatTemplate(source, {})
    try:
        assert find_calls(asked) == (layout, telling)
    finally:
        asked.close()


def _call(id_: str) -> dict[str, Any]:
    function = {"name": "add", "arguments": {"a": 1, "b": "ü"}}
    return {"type": "function", "id": id_, "function": function}


HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "", "tool_calls": [_call("call_1"), _call("call_2")]},
    {"role": "tool", "tool_call_id": "call_1", "content": "one"},
    {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "two"}]},
    {"role": "user", "content": "and?"},
]


def test_the_tokens_of_deepseek_are_named_as_its_tokenizers_name_them() -> None:
    names = [f"<{chr(0xFF5C)}{name}{chr(0xFF5C)}>" for name in ("tool▁calls▁begin", "tool▁sep")]
    assert [DEEPSEEK_V3.begin, DEEPSEEK_V31.after_name] == names


def test_ids_of_other_servers_fit_a_model_with_short_ones() -> None:
    told = for_template(HISTORY, MISTRAL, "object")
    ids = [call["id"] for call in told[1]["tool_calls"]]
    assert [message["tool_call_id"] for message in told[2:4]] == ids
    assert len(set(ids)) == 2
    assert all(len(id_) == 9 and id_.isalnum() for id_ in ids)
    assert for_template(HISTORY, HERMES, "object") == HISTORY


def test_arguments_are_text_where_the_template_wants_it() -> None:
    [call, _] = for_template(HISTORY, HERMES, "text")[1]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"a": 1, "b": "ü"}
    assert "ü" in call["function"]["arguments"]


def test_in_words_user_and_assistant_take_turns() -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    told = told_in_words(HISTORY, tools, GENERIC)
    assert [message["role"] for message in told] == ["system", "user", "assistant", "user"]
    last = told[-1]["content"]
    assert last.index("one") < last.index("two") < last.index("and?")
    assert told[2]["content"] == GENERIC.written([("add", {"a": 1, "b": "ü"})] * 2)
    told = told_in_words(HISTORY, tools, QWEN3_CODER, has_system=False)
    assert [message["role"] for message in told] == ["user", "assistant", "user"]
    assert told[0]["content"].endswith("hello")
    assert "<parameter=b>\nü\n</parameter>" in told[1]["content"]

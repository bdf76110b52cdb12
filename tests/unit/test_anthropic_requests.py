"""What Anthropic's API is asked, in the words of the chat API."""

import json
from typing import Any

import pytest

from device_runtime.api.anthropic.chat import chat_of
from device_runtime.api.anthropic.request import CountRequest, MessagesRequest
from device_runtime.api.anthropic.shape import envelope
from device_runtime.api.errors import ApiError, TooLongError, invalid
from device_runtime.api.request.body import ChatRequest, Message, decode_request
from device_runtime.api.request.tool_fields import FunctionCall, ToolCall

USER = {"role": "user", "content": "How warm is it?"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def asked(**fields: Any) -> ChatRequest:
    body = {"model": "m", "max_tokens": 9, "messages": [USER], **fields}
    return chat_of(decode_request(json.dumps(body).encode(), MessagesRequest))


def messages(*turns: Any, **fields: Any) -> list[Message]:
    return asked(messages=list(turns), **fields).messages


def fault(**fields: Any) -> str:
    with pytest.raises(ApiError) as caught:
        asked(**fields)
    assert caught.value.status == 400
    error = json.loads(envelope(caught.value))
    assert error["type"] == "error"
    assert error["error"]["type"] == "invalid_request_error"
    return str(error["error"]["message"])


def test_fields_have_their_counterparts() -> None:
    chat = asked(temperature=0.5, top_p=0.9, top_k=40, stop_sequences=["\n\n", "END"], stream=True)
    assert (chat.model, chat.max_tokens, chat.temperature) == ("m", 9, 0.5)
    assert (chat.top_p, chat.top_k, chat.stop) == (0.9, 40, ["\n\n", "END"])
    assert chat.stream is True


def test_what_is_unknown_is_ignored() -> None:
    unknown = {
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "cache_control": {"type": "ephemeral"},
        "speed": "fast",
        "container": None,
    }
    assert asked(**unknown) == asked()


@pytest.mark.parametrize(
    "system",
    [
        "Be brief.\nBe kind.",
        [
            {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Be kind."},
        ],
    ],
)
def test_the_system_prompt_is_a_text_or_blocks(system: Any) -> None:
    assert messages(USER, system=system) == [
        Message("system", "Be brief.\nBe kind."),
        Message("user", "How warm is it?"),
    ]


def test_calls_and_results_of_one_turn_are_messages_in_their_order() -> None:
    said = [
        {"type": "thinking", "thinking": "Two cities.", "signature": "x"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "a", "name": "look", "input": {"city": "Rome"}},
        {"type": "tool_use", "id": "b", "name": "now", "input": {}},
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "b", "content": "noon"},
        {
            "type": "tool_result",
            "tool_use_id": "a",
            "is_error": True,
            "content": [{"type": "text", "text": "no such"}, {"type": "text", "text": "city"}],
        },
        {"type": "tool_result", "tool_use_id": "c"},
        {"type": "text", "text": "And now?"},
    ]
    turns = [USER, {"role": "assistant", "content": said}, {"role": "user", "content": results}]
    assert messages(*turns) == [
        Message("user", "How warm is it?"),
        Message(
            "assistant",
            "I look.",
            reasoning="Two cities.",
            tool_calls=[
                ToolCall(FunctionCall("look", {"city": "Rome"}), "a", "function"),
                ToolCall(FunctionCall("now", {}), "b", "function"),
            ],
        ),
        Message("tool", "noon", tool_call_id="b"),
        Message("tool", "Error: no such\ncity", tool_call_id="a"),
        Message("tool", "", tool_call_id="c"),
        Message("user", "And now?"),
    ]


def test_turns_of_one_side_are_one() -> None:
    called = {"type": "tool_use", "id": "a", "name": "look", "input": {}}
    turns = [
        USER,
        {"role": "user", "content": [{"type": "text", "text": "And there?"}]},
        {"role": "assistant", "content": "Hm."},
        {"role": "assistant", "content": [called]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]},
    ]
    assert messages(*turns) == [
        Message("user", "How warm is it?\nAnd there?"),
        Message(
            "assistant", "Hm.", tool_calls=[ToolCall(FunctionCall("look", {}), "a", "function")]
        ),
        Message("tool", "", tool_call_id="a"),
    ]


def test_tools_and_whether_they_must_be_called() -> None:
    tool = {"name": "look", "description": "Looks.", "input_schema": SCHEMA}
    custom = {"type": "custom", "name": "now", "input_schema": {"type": "object"}, "strict": True}
    chat = asked(tools=[tool, custom])
    assert chat.tools is not None
    functions = [tool.function for tool in chat.tools]
    assert [f and (f.name, f.description, f.parameters) for f in functions] == [
        ("look", "Looks.", SCHEMA),
        ("now", None, {"type": "object"}),
    ]
    named = {"type": "function", "function": {"name": "look"}}
    for choice, expected in (
        ({"type": "auto"}, ("auto", None)),
        ({"type": "any", "disable_parallel_tool_use": True}, ("required", False)),
        ({"type": "any", "disable_parallel_tool_use": False}, ("required", True)),
        ({"type": "none"}, ("none", None)),
        ({"type": "tool", "name": "look"}, (named, None)),
    ):
        chat = asked(tools=[tool], tool_choice=choice)
        assert (chat.tool_choice, chat.parallel_tool_calls) == expected


@pytest.mark.parametrize(
    ("thinking", "variables"),
    [
        (None, None),
        ({"type": "disabled"}, {"enable_thinking": False}),
        ({"type": "enabled", "budget_tokens": 4096}, {"enable_thinking": True}),
        ({"type": "adaptive", "display": "summarized"}, {"enable_thinking": True}),
    ],
)
def test_thinking_is_for_the_template(thinking: Any, variables: Any) -> None:
    assert asked(thinking=thinking).chat_template_kwargs == variables


@pytest.mark.parametrize("name", ["output_config", "output_format"])
def test_an_answer_may_be_held_to_a_schema(name: str) -> None:
    format_ = {"type": "json_schema", "schema": SCHEMA}
    chat = asked(**{name: {"format": format_} if name == "output_config" else format_})
    assert chat.response_format is not None
    assert chat.response_format.type == "json_schema"
    assert chat.response_format.json_schema is not None
    assert chat.response_format.json_schema.schema == SCHEMA


def test_effort_is_told_as_templates_know_it() -> None:
    assert asked(output_config={"effort": "low"}).reasoning_effort == "low"
    assert asked(output_config={"effort": "max"}).reasoning_effort == "high"


def test_an_answer_that_has_begun_goes_on() -> None:
    assert asked().continue_final_message is None
    chat = asked(messages=[USER, {"role": "assistant", "content": "It is"}])
    assert chat.continue_final_message is True


def test_counting_wants_no_length() -> None:
    body = {"messages": [USER, {"role": "assistant", "content": "Warm"}]}
    chat = chat_of(decode_request(json.dumps(body).encode(), CountRequest))
    assert [message.role for message in chat.messages] == ["user", "assistant"]


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}


def user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [USER, {"role": "user", "content": list(blocks)}]}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"messages": [USER, {"role": "assistant", "content": list(blocks)}, USER]}


def result(*content: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "a", "content": list(content)}


@pytest.mark.parametrize(
    ("fields", "begin"),
    [
        ({"max_tokens": None}, "max_tokens: "),
        ({"max_tokens": 0}, "max_tokens: expected `int` >= 1, got 0"),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages[0].role: expected user"),
        (user(IMAGE), "messages[1].content[0].type: expected text or tool_result, got 'image'"),
        (user({"type": "text"}), "messages[1].content[0].text: this field is required"),
        (user(result(IMAGE)), "messages[1].content[0].content[0].type: expected text"),
        (user(result(3)), "messages[1].content[0].content: expected a text"),
        (user({"type": "tool_result"}), "messages[1].content[0].tool_use_id: this field"),
        (user({"type": "thinking"}), "messages[1].content[0].type: expected text or tool_result"),
        (assistant({"type": "server_tool_use"}), "messages[1].content[0].type: expected text, th"),
        (assistant({"type": "tool_use", "input": {}}), "messages[1].content[0].name: this field"),
        (
            assistant({"type": "tool_use", "name": "x", "input": "{}"}),
            "messages[1].content[0].input: expected an object, got str",
        ),
        ({"system": [{"type": "text", "text": "a"}, IMAGE]}, "system[1].type: expected text"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name: this field is required"),
        (
            {"tools": [{"type": "bash_20250124", "name": "bash"}]},
            "tools[0].type: expected custom, got 'bash_20250124'",
        ),
        ({"tools": [{"type": "browser_20260801"}]}, "tools[0].type: expected custom"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice: expected auto, any, none, or tool"),
        ({"tool_choice": {"type": "must"}}, "tool_choice: expected auto, any, none, or tool"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type: expected"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers is not supported here"),
        ({"temperature": 3}, "temperature: expected `float` <= 2.0, got 3"),
    ],
)
def test_faults_are_named_by_their_place(fields: dict[str, Any], begin: str) -> None:
    assert fault(**fields).startswith(begin), fault(**fields)


@pytest.mark.parametrize(
    ("place", "own"),
    [
        ("tools[3].function.parameters", "tools[3].input_schema"),
        ("tools[12].function.name", "tools[12].name"),
        ("stop", "stop_sequences"),
        ("response_format.json_schema.schema", "output_config.format.schema"),
        ("tool_choice", "tool_choice"),
    ],
)
def test_places_of_the_chat_api_are_told_as_anthropics(place: str, own: str) -> None:
    error = json.loads(envelope(invalid(place, f"{place}: it is wrong")))
    assert error["error"]["message"] == f"{own}: it is wrong"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (408, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_errors_have_anthropics_kinds(status: int, kind: str) -> None:
    error = json.loads(envelope(ApiError(status, "No.", code="x")))
    assert error == {"type": "error", "error": {"type": kind, "message": "No."}}


def test_a_prompt_too_long_is_told_as_clients_look_for_it() -> None:
    # Claude Code reads both numbers out of this and shortens the conversation.
    error = json.loads(envelope(TooLongError("messages", "In other words.", 9000, 8192)))
    assert error["error"]["message"] == "prompt is too long: 9000 tokens > 8192 maximum"

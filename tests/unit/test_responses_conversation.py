"""Items of the Responses API as messages, and what is wrong with them by its own name."""

from typing import Any

import msgspec
import pytest

from device_runtime.api.errors import ApiError, invalid
from device_runtime.api.request.body import Message, decode_request
from device_runtime.api.responses.conversation import messages_of, placed
from device_runtime.api.responses.plan import chat_of, in_own_words, shortened
from device_runtime.api.responses.request import Item, ResponsesRequest

CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "2"}
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}}


def request_of(given: Any, **fields: Any) -> ResponsesRequest:
    return decode_request(msgspec.json.encode({"input": given, **fields}), ResponsesRequest)


def said(given: Any, earlier: tuple[Item, ...] = (), **fields: Any) -> list[tuple[Any, ...]]:
    request = request_of(given, **fields)
    messages = messages_of(request.instructions, list(placed(earlier, request.input)))
    return [(m.role, m.content, *told(m)) for m in messages]


def told(message: Message) -> list[Any]:
    calls = [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or ()]
    return [each for each in (message.reasoning, calls, message.tool_call_id) if each]


def test_a_text_is_what_the_user_says():
    assert said("Hi") == [("user", "Hi")]


@pytest.mark.parametrize("kind", [{}, {"type": "message"}])
@pytest.mark.parametrize("role", ["user", "assistant"])
@pytest.mark.parametrize(
    "content",
    [
        "A\nB",
        [{"type": "input_text", "text": "A"}, {"type": "output_text", "text": "B", "x": []}],
        [{"type": "text", "text": "A"}, {"type": "refusal", "refusal": "B"}],
    ],
)
def test_messages(kind: dict[str, str], role: str, content: Any):
    assert said([{**kind, "role": role, "content": content}]) == [(role, "A\nB")]


def test_what_the_system_says_at_the_beginning_is_one_message():
    given = [
        {"role": "developer", "content": "B"},
        {"role": "system", "content": "C"},
        {"role": "user", "content": "D"},
        {"role": "developer", "content": "E"},
    ]
    later = [("user", "D"), ("developer", "E")]
    assert said(given, instructions="A") == [("system", "A\n\nB\n\nC"), *later]
    assert said(given) == [("system", "B\n\nC"), *later]
    assert said([], instructions="A") == [("system", "A")]


def test_thoughts_words_and_calls_of_one_answer_are_one_message():
    given = [
        {"role": "user", "content": "1 and 1?"},
        {"type": "reasoning", "id": "rs", "summary": [], "content": None},
        {
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm."}],
            "encrypted_content": None,
        },
        {"role": "assistant", "content": "I add."},
        CALL,
        {**CALL, "call_id": "c2"},
        {**RESULT, "call_id": "c2", "output": [{"type": "input_text", "text": "3"}]},
        RESULT,
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Now."}]},
        {"role": "assistant", "content": "Two."},
    ]
    calls = [("c1", "add", {"a": 1}), ("c2", "add", {"a": 1})]
    assert said(given) == [
        ("user", "1 and 1?"),
        ("assistant", "I add.", "Hm.", calls),
        ("tool", "3", "c2"),
        ("tool", "2", "c1"),
        ("assistant", "Two.", "Now."),
    ]


def test_two_answers_in_a_row_stay_two_and_thoughts_belong_to_what_follows():
    given = [
        {"role": "assistant", "content": "A"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Of B."}]},
        {"role": "assistant", "content": "B"},
        CALL,
        {"role": "assistant", "content": "C"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Of nothing."}]},
    ]
    assert said(given) == [
        ("assistant", "A"),
        ("assistant", "B", "Of B.", [("c1", "add", {"a": 1})]),
        ("assistant", "C"),
    ]


def test_calls_of_custom_tools_in_history_are_calls():
    given = [
        {"type": "custom_tool_call", "call_id": "c3", "name": "patch", "input": "*** x"},
        {"type": "custom_tool_call_output", "call_id": "c3", "output": "done"},
    ]
    assert said(given) == [
        ("assistant", "", [("c3", "patch", {"input": "*** x"})]),
        ("tool", "done", "c3"),
    ]


def test_a_result_may_be_of_a_call_of_the_earlier_response():
    call = msgspec.convert(CALL, Item)
    assert said([RESULT], (call,))[1] == ("tool", "2", "c1")


@pytest.mark.parametrize(
    ("item", "where"),
    [
        ({"role": "critic", "content": "x"}, ".role"),
        ({"content": "x"}, ".role"),
        ({"role": "user"}, ".content"),
        (
            {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]},
            ".content[0].type",
        ),
        ({"role": "user", "content": [{"type": "input_text"}]}, ".content[0].text"),
        (
            {"role": "assistant", "content": [{"type": "text", "text": ""}, {"type": "refusal"}]},
            ".content[1].refusal",
        ),
        ({"type": "web_search_call", "id": "ws"}, ".type"),
        ({"type": "compaction", "encrypted_content": "x"}, ".type"),
        ({**CALL, "name": None}, ".name"),
        ({**CALL, "call_id": None}, ".call_id"),
        ({**CALL, "arguments": "{"}, ".arguments"),
        ({**CALL, "arguments": "[1]"}, ".arguments"),
        ({**RESULT, "call_id": None}, ".call_id"),
        ({**RESULT, "call_id": "c9"}, ".call_id"),
        ({**RESULT, "call_id": "c0", "output": None}, ".output"),
        ({**RESULT, "call_id": "c0", "output": {"x": 1}}, ".output"),
        (
            {**RESULT, "call_id": "c0", "output": [{"type": "input_file", "file_id": "x"}]},
            ".output[0].type",
        ),
        ({"type": "reasoning", "summary": "x", "content": [{"type": "image"}]}, ".content[0].type"),
        ({"type": "reasoning", "summary": 3}, ".summary"),
    ],
)
@pytest.mark.parametrize("num_earlier", [0, 3])
def test_an_item_at_fault_is_named_by_its_place_in_the_input(
    item: dict[str, Any], where: str, num_earlier: int
):
    earlier = (Item(role="user", content="Hi"),) * num_earlier
    with pytest.raises(ApiError) as caught:
        said([{**CALL, "call_id": "c0"}, item], earlier)
    assert caught.value.param == f"input[1]{where}"
    assert caught.value.message.startswith(f"input[1]{where}: ")


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ([{"role": 3}], "input[0].role"),
        ([{"role": "user", "content": 5}], "input[0].content"),
        (7, "input"),
    ],
)
def test_wrong_types_are_found_while_reading(given: Any, param: str):
    with pytest.raises(ApiError) as caught:
        request_of(given)
    assert caught.value.param == param


@pytest.mark.parametrize("given", [None, [], [{"type": "reasoning", "summary": []}]])
def test_nothing_to_go_on_from_is_refused(given: Any):
    with pytest.raises(ApiError, match="input: this field is required"):
        said(given)


def chat(**fields: Any) -> Any:
    request = request_of("Hi", **fields)
    return chat_of(request, list(placed((), request.input)))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"stream_options": {}}, "stream_options"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(fields: dict[str, Any], param: str):
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    assert caught.value.status == 400
    assert caught.value.param == param


def test_what_openai_would_run_is_left_out():
    others = [{"type": "web_search"}, {"type": "custom", "name": "patch", "format": {}}]
    asked = chat(tools=[*others, TOOL], include=["reasoning.encrypted_content"])
    assert [tool.function.name for tool in asked.tools] == ["add"]
    assert chat(tools=others).tools is None


def test_choices_of_tools():
    two = [TOOL, {**TOOL, "name": "mul"}]
    assert chat(tools=two, tool_choice="required").tool_choice == "required"
    named = chat(tools=two, tool_choice={"type": "function", "name": "mul"}).tool_choice
    assert named == {"type": "function", "function": {"name": "mul"}}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{**TOOL, "name": "mul"}]}
    asked = chat(tools=two, tool_choice=allowed)
    assert asked.tool_choice == "required"
    assert [tool.function.name for tool in asked.tools] == ["mul"]


def test_thoughts_are_off_where_no_effort_is_wanted():
    assert chat(reasoning={"effort": "none"}).template_variables == {
        "enable_thinking": False,
        "reasoning_effort": "none",
    }
    assert chat(reasoning={"effort": "low"}).template_variables == {"reasoning_effort": "low"}
    assert chat(reasoning={"summary": "auto"}).template_variables == {}


@pytest.mark.parametrize(
    ("param", "own"),
    [
        ("messages", "input"),
        ("max_tokens", "max_output_tokens"),
        ("response_format.json_schema.schema", "text.format.schema"),
        ("response_format.type", "text.format.type"),
        ("tools[0].function.parameters", "tools[1].parameters"),
        ("tools[1].function.name", "tools[3].name"),
        ("tool_choice", "tool_choice"),
        ("temperature", "temperature"),
    ],
)
def test_errors_of_chat_get_the_names_that_were_sent(param: str, own: str):
    search = {"type": "web_search"}
    request = request_of("Hi", tools=[search, TOOL, search, {**TOOL, "name": "mul"}])
    error = in_own_words(invalid(param, f"{param}: expected this, got that"), request)
    assert (error.param, error.message) == (own, f"{own}: expected this, got that")
    assert error.status == 400


def test_shorter_conversations_begin_with_what_the_user_says():
    texts = ["s", "u1", "a1", "t1", "u2", "s2", "a2", "u3"]
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    messages = [Message(roles[text[0]], text) for text in texts]
    left = [[message.content for message in each] for each in shortened(messages)]
    assert left == [["s", "u2", "s2", "a2", "u3"], ["s", "u3"]]
    assert shortened(messages[:3]) == []


def test_a_schema_is_left_as_it_came_where_numbers_are_read():
    schema = {"const": 2.0, "multipleOf": 0.5}
    request = request_of(
        "Hi", max_output_tokens=16.0, text={"format": {"type": "x", "schema": schema}}
    )
    assert request.max_output_tokens == 16
    assert request.text is not None
    assert request.text.format is not None
    assert isinstance(request.text.format.schema["const"], float)

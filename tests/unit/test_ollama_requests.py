"""What Ollama's API is asked, in the words of the chat API."""

import json
from typing import Any

import pytest

from device_runtime.api.errors import ApiError, invalid
from device_runtime.api.ollama.request import (
    GenerateRequest,
    OllamaChatRequest,
    RawPrompt,
    chat_of,
    prompt_of,
    served_name,
)
from device_runtime.api.ollama.shape import envelope
from device_runtime.api.request.body import ChatRequest, Message, decode_request
from device_runtime.api.request.tool_fields import FunctionCall, ToolCall

USER = {"role": "user", "content": "How warm is it?"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
OPTIONS = {
    "temperature": 0,
    "top_p": 0.5,
    "top_k": 4,
    "min_p": 0.1,
    "seed": 7,
    "num_predict": 5,
    "stop": ["END"],
    "repeat_penalty": 1.5,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
}


def asked(**fields: Any) -> ChatRequest:
    body = {"model": "m", "messages": [USER], **fields}
    return chat_of(decode_request(json.dumps(body).encode(), OllamaChatRequest))


def prompted(**fields: Any) -> Any:
    body = {"model": "m", "prompt": "Once", **fields}
    return prompt_of(decode_request(json.dumps(body).encode(), GenerateRequest))


def fault(make: Any, **fields: Any) -> str:
    with pytest.raises(ApiError) as caught:
        make(**fields)
    assert caught.value.status == 400
    [(name, message)] = json.loads(envelope(caught.value)).items()
    assert name == "error"
    return str(message)


def check_options(request: Any) -> None:
    assert (request.temperature, request.top_p, request.top_k) == (0, 0.5, 4)
    assert (request.min_p, request.seed, request.max_tokens, request.stop) == (0.1, 7, 5, ["END"])
    assert request.repetition_penalty == 1.5
    assert (request.presence_penalty, request.frequency_penalty) == (0.5, -0.5)


def test_options_have_their_counterparts() -> None:
    check_options(asked(options=OPTIONS))
    check_options(prompted(options=OPTIONS))
    check_options(prompted(options=OPTIONS, raw=True))


def test_whole_numbers_may_have_a_point() -> None:
    assert asked(options={"num_predict": 5.0, "top_k": 4.0}).max_tokens == 5


@pytest.mark.parametrize("num_predict", [-1, -2, 0, None])
def test_no_number_of_tokens_is_no_bound(num_predict: int | None) -> None:
    assert asked(options={"num_predict": num_predict}).asked_tokens is None
    raw = prompted(raw=True, options={"num_predict": num_predict})
    assert raw.asked_tokens is None
    assert raw.default_tokens is None


def test_what_is_unknown_is_ignored() -> None:
    options = {"num_ctx": 4096, "num_gpu": 1, "repeat_last_n": 64, "mirostat": 0, "tfs_z": 1.0}
    fields = {"keep_alive": "5m", "truncate": True, "width": 8}
    assert asked(options=options, **fields) == asked(options={})


def test_answers_are_streamed_unless_told_otherwise() -> None:
    assert asked().stream is True
    assert asked(stream=None).stream is True
    assert asked(stream=False).stream is False


def test_calls_and_results_are_messages() -> None:
    call = {"function": {"name": "look", "arguments": {"city": "Rome"}}}
    turns = [
        {"role": "system", "content": "Be brief."},
        {**USER, "images": []},
        {"role": "assistant", "content": "", "thinking": "Rome.", "tool_calls": [call]},
        {"role": "tool", "content": "20", "tool_name": "look"},
    ]
    assert asked(messages=turns).messages == [
        Message("system", "Be brief."),
        Message("user", "How warm is it?"),
        Message(
            "assistant",
            "",
            reasoning="Rome.",
            tool_calls=[ToolCall(FunctionCall("look", {"city": "Rome"}))],
        ),
        Message("tool", "20", name="look"),
    ]


@pytest.mark.parametrize(
    ("think", "effort", "variables"),
    [
        (None, None, None),
        (True, None, {"enable_thinking": True}),
        (False, None, {"enable_thinking": False}),
        ("low", "low", {"enable_thinking": True}),
    ],
)
def test_thinking_is_for_the_template(think: Any, effort: str | None, variables: Any) -> None:
    chat = asked(think=think)
    assert (chat.reasoning_effort, chat.chat_template_kwargs) == (effort, variables)


def test_a_format_is_json_or_a_schema() -> None:
    for empty in (None, ""):
        assert asked(format=empty).response_format is None
    plain = asked(format="json").response_format
    assert plain is not None
    assert plain.type == "json_object"
    for request in (asked(format=SCHEMA), prompted(format=SCHEMA, raw=True)):
        held = request.response_format
        assert held is not None
        assert held.json_schema is not None
        assert held.json_schema.schema == SCHEMA


def test_a_prompt_is_a_turn_or_a_text() -> None:
    assert prompted(system="Be brief.").messages == [
        Message("system", "Be brief."),
        Message("user", "Once"),
    ]
    raw = prompted(raw=True)
    assert isinstance(raw, RawPrompt)
    assert raw.prompt == "Once"


def test_an_answer_that_has_begun_goes_on() -> None:
    begun = {"role": "assistant", "content": "It is"}
    assert asked(messages=[USER, begun]).continue_final_message is True
    called = {**begun, "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}
    assert asked(messages=[USER, called]).continue_final_message is None
    assert asked().continue_final_message is None


def test_a_tag_is_no_part_of_a_name_unless_it_is_served_with_it() -> None:
    assert served_name("m:latest", ("m",)) == "m"
    assert served_name("m:latest", ("m:latest",)) == "m:latest"
    assert served_name("m:8b", ("m",)) == "m:8b"
    assert served_name(None, ("m",)) is None


@pytest.mark.parametrize(
    ("make", "fields", "begin"),
    [
        (asked, {"messages": [{**USER, "images": ["AA=="]}]}, "messages[0].images: only text"),
        (asked, {"format": "xml"}, 'format: expected "json" or a JSON schema'),
        (asked, {"logprobs": True}, "logprobs is not supported here"),
        (asked, {"options": {"mirostat": 2}}, "options.mirostat is not supported here"),
        (asked, {"options": {"top_p": 1.5}}, "options.top_p: expected `float` <= 1.0"),
        (asked, {"options": {"stop": [""]}}, "options.stop"),
        (prompted, {"suffix": "end"}, "suffix is not supported here"),
        (prompted, {"template": "{{ .Prompt }}"}, "template is not supported here"),
        (prompted, {"context": [1, 2]}, "context is not supported here"),
        (prompted, {"images": ["AA=="]}, "images is not supported here"),
        (prompted, {"raw": True, "system": "x"}, "system: not allowed beside raw"),
    ],
)
def test_faults_are_named_by_their_place(make: Any, fields: dict[str, Any], begin: str) -> None:
    assert fault(make, **fields).startswith(begin), fault(make, **fields)


@pytest.mark.parametrize(
    ("place", "own"),
    [
        ("stop", "options.stop"),
        ("response_format.json_schema.schema", "format"),
        ("tools[0].function.name", "tools[0].function.name"),
    ],
)
def test_places_of_the_chat_api_are_told_as_ollamas(place: str, own: str) -> None:
    error = json.loads(envelope(invalid(place, f"{place}: it is wrong")))
    assert error == {"error": f"{own}: it is wrong"}

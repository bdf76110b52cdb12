"""What clients may send: types, ranges, and fields that are refused by name."""

import msgspec
import pytest

from device_runtime.api.errors import ApiError
from device_runtime.api.request.body import ChatRequest, CompletionRequest, decode_request

MESSAGES = [{"role": "user", "content": "hi"}]


def refusal(kind, **fields):
    body = {"messages": MESSAGES} if kind is ChatRequest else {"prompt": "hi"}
    with pytest.raises(ApiError) as caught:
        decode_request(msgspec.json.encode(body | fields), kind)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 0),
        ("n", 129),
        ("n", "2"),
        ("n", 1.5),
        ("n", True),
        ("max_tokens", -1),
        ("max_tokens", 2**31),
        ("max_tokens", 10**30),
        ("min_tokens", -1),
        ("temperature", -0.1),
        ("temperature", 2.01),
        ("temperature", "hot"),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("seed", 1.5),
        ("logit_bias", []),
        ("logit_bias", {str(place): 0 for place in range(1025)}),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", ["a", None]),
        ("stop", 5),
        ("stop_token_ids", [-1]),
        ("ignore_eos", "yes"),
        ("allowed_token_ids", []),
        ("allowed_token_ids", [-1]),
        ("bad_words", ["dog", ""]),
        ("prompt_logprobs", -1),
        ("skip_special_tokens", "no"),
        ("bad_words", [str(place) for place in range(257)]),
        ("stream", 1),
        ("stream_options", True),
    ],
)
@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest])
def test_a_value_of_a_wrong_type_or_out_of_range_is_refused_by_the_fields_name(kind, name, value):
    error = refusal(kind, **{name: value})
    assert error.param is not None
    assert error.param.startswith(name)
    assert error.message.startswith(name)
    assert "expected" in error.message or "out of range" in error.message


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (ChatRequest, "logprobs", 3),
        (ChatRequest, "max_tokens", 0),
        (ChatRequest, "top_logprobs", 21),
        (ChatRequest, "messages", []),
        (ChatRequest, "messages", "hi"),
        (ChatRequest, "max_completion_tokens", 0),
        (ChatRequest, "chat_template_kwargs", []),
        (ChatRequest, "continue_final_message", "yes"),
        (CompletionRequest, "logprobs", 21),
        (CompletionRequest, "logprobs", -1),
        (CompletionRequest, "logprobs", True),
        (CompletionRequest, "prompt", []),
        (CompletionRequest, "prompt", [None]),
        (CompletionRequest, "prompt", [-1]),
        (CompletionRequest, "echo", "yes"),
    ],
)
def test_fields_of_one_kind_of_request_are_checked_too(kind, name, value):
    assert (refusal(kind, **{name: value}).param or "").startswith(name)


def test_a_field_is_named_beside_half_a_character_too():
    body = rb'{"messages": [{"role": "user", "content": "\ud83d"}], "temperature": "warm"}'
    with pytest.raises(ApiError) as caught:
        decode_request(body, ChatRequest)
    assert (caught.value.status, caught.value.param) == (400, "temperature")


def test_an_error_about_a_range_says_what_came():
    assert refusal(ChatRequest, temperature=3.5).message == (
        "temperature: expected `float` <= 2.0, got 3.5"
    )
    assert refusal(ChatRequest, n=16.5).message == "n: expected `int | null`, got 16.5"


@pytest.mark.parametrize(
    ("kind", "name", "value", "neutral"),
    [
        (ChatRequest, "functions", [{}], []),
        (ChatRequest, "modalities", ["audio"], ["text"]),
        (ChatRequest, "audio", {"voice": "x"}, None),
        (ChatRequest, "prediction", {"type": "content"}, None),
        (ChatRequest, "best_of", 2, 1),
        (CompletionRequest, "best_of", 2, 1),
        (CompletionRequest, "suffix", "end", ""),
        (CompletionRequest, "logits_processors", ["x"], []),
        (CompletionRequest, "use_beam_search", True, False),
    ],
)
def test_fields_that_would_change_the_meaning_are_refused_unless_neutral(
    kind, name, value, neutral
):
    error = refusal(kind, **{name: value})
    assert (error.param, error.code) == (name, "unsupported_parameter")
    body = {"messages": MESSAGES, "prompt": "hi", name: neutral}
    assert decode_request(msgspec.json.encode(body), kind) is not None


def test_unknown_fields_and_nulls_are_as_if_left_out():
    body = {"messages": MESSAGES, "n": None, "stop": None, "tools": None, "never_heard_of": [1]}
    request = decode_request(msgspec.json.encode(body), ChatRequest)
    assert request == decode_request(msgspec.json.encode({"messages": MESSAGES}), ChatRequest)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b'{"prompt": "\xff"}', b'{"x":' + b"[" * 10**5 + b"]" * 10**5 + b"}"],
)
def test_what_is_not_json_is_refused_as_such(body):
    with pytest.raises(ApiError) as caught:
        decode_request(body, CompletionRequest)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_a_body_that_is_no_object_or_lacks_a_field_says_so():
    for body, words in ((b"[]", "expected `object`"), (b"{}", "prompt: this field is required")):
        with pytest.raises(ApiError, match=words):
            decode_request(body, CompletionRequest)


BOTH_WAYS = [(0, 1), (1, 0)]


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (ChatRequest, ("functions", [{}]), ("audio", {"voice": "x"})),
        (ChatRequest, ("prediction", {"type": "content"}), ("best_of", 2)),
        (CompletionRequest, ("suffix", "end"), ("best_of", 2)),
    ],
)
@pytest.mark.parametrize("order", BOTH_WAYS)
def test_of_several_refused_fields_the_first_of_the_request_is_named(kind, one, other, order):
    pair = [one, other]
    fields = dict(pair[place] for place in order)
    assert refusal(kind, **fields).param == next(iter(fields))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ChatRequest, {"tool_choice": None, "parallel_tool_calls": None}),
        (ChatRequest, {"functions": [{"name": "f"}], "function_call": "none"}),
        (ChatRequest, {"function_call": "auto"}),
        (CompletionRequest, {"best_of": 3, "n": 3}),
        (CompletionRequest, {"best_of": 2.0, "n": 2}),
        (CompletionRequest, {"tools": [{}], "messages": []}),
    ],
)
def test_what_says_that_nothing_changes_is_taken(kind, fields):
    body = {"messages": MESSAGES, "prompt": "hi"}
    decoded = decode_request(msgspec.json.encode(body | fields), kind)
    if "n" not in fields:
        assert decoded == decode_request(msgspec.json.encode(body), kind)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"functions": [{}], "function_call": {"name": "f"}}, "functions"),
        ({"best_of": 3, "n": 2}, "best_of"),
        ({"response_format": "text"}, "response_format"),
    ],
)
def test_what_would_change_the_answer_is_refused_beside_other_fields_too(fields, name):
    assert refusal(ChatRequest, **fields).param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("best_of", b"1" * 5000),
        ("suffix", b"1e400"),
        ("logit_bias", b'{"5": 1e400}'),
        ("logit_bias", b'{"5": ' + b"1" * 5000 + b"}"),
    ],
)
def test_a_number_that_no_machine_holds_is_refused_by_the_fields_name(name, value):
    with pytest.raises(ApiError) as caught:
        decode_request(b'{"prompt": "hi", "%s": %s}' % (name.encode(), value), CompletionRequest)
    assert (caught.value.status, caught.value.param) == (400, name)
    assert caught.value.message.startswith(f"{name}: ")

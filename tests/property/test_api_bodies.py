"""What bodies mean does not depend on how clients write numbers, halves of characters or marks."""

import copy
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.api.errors import ApiError
from device_runtime.api.request.body import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    decode_request,
)

MARK = b"\xef\xbb\xbf"

whole = st.integers(0, 128)
biases = st.dictionaries(whole.map(str), st.integers(-100, 100), max_size=3)
common = {
    "max_tokens": st.integers(1, 2**31 - 1),
    "min_tokens": whole,
    "temperature": st.integers(0, 2),
    "top_p": st.integers(0, 1),
    "top_k": st.integers(-1, 99),
    "min_p": st.integers(0, 1),
    "presence_penalty": st.integers(-2, 2),
    "repetition_penalty": st.integers(1, 10),
    "logit_bias": biases,
    "seed": st.integers(-(2**50), 2**50),
    "n": st.integers(1, 128),
    "stop_token_ids": st.lists(whole, max_size=3),
    "best_of": st.just(1),
    "length_penalty": st.just(1),
}
token_lists = st.lists(whole, min_size=1, max_size=4)
completions = st.fixed_dictionaries(
    {"prompt": token_lists | st.lists(token_lists, min_size=1, max_size=3)},
    optional=common | {"logprobs": st.integers(0, 20)},
)
messages = st.just([{"role": "user", "content": "hi"}])
chats = st.fixed_dictionaries(
    {"messages": messages},
    optional=common
    | {"max_completion_tokens": st.integers(1, 99), "top_logprobs": st.integers(0, 20)},
)
detokenizations = st.fixed_dictionaries({"tokens": token_lists})
KINDS = {
    CompletionRequest: completions,
    ChatRequest: chats,
    DetokenizeRequest: detokenizations,
}


def with_floats(value, is_one):
    """The same value with some of its whole numbers written as others write them."""
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value) if is_one() else value
    if isinstance(value, list):
        return [with_floats(item, is_one) for item in value]
    if isinstance(value, dict):
        return {key: with_floats(item, is_one) for key, item in value.items()}
    return value


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_whole_number_is_one_however_it_is_written(kind, data):
    body = data.draw(KINDS[kind])
    written = with_floats(body, lambda: data.draw(st.booleans()))
    assert decode_request(json.dumps(written).encode(), kind) == decode_request(
        json.dumps(body).encode(), kind
    )


def places_of_whole_numbers(value, path=()):
    if isinstance(value, int) and path:
        yield path
    elif isinstance(value, list | dict):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from places_of_whole_numbers(item, (*path, key))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_fraction_where_a_whole_number_belongs_is_refused_by_its_field(kind, data):
    body = data.draw(KINDS[kind])
    takes_fractions = {"temperature", "top_p", "min_p", "presence_penalty", "repetition_penalty"}
    ignored = {"best_of", "length_penalty", "logit_bias"}
    places = [
        path for path in places_of_whole_numbers(body) if path[0] not in takes_fractions | ignored
    ]
    if not places:
        return
    broken = with_floats(copy.deepcopy(body), lambda: data.draw(st.booleans()))
    *way, last = path = data.draw(st.sampled_from(places))
    inner = broken
    for key in way:
        inner = inner[key]
    inner[last] += 0.5
    with pytest.raises(ApiError) as caught:
        decode_request(json.dumps(broken).encode(), kind)
    assert (caught.value.param or "").startswith(path[0])
    assert "expected" in caught.value.message


def test_numbers_for_a_template_stay_as_they_were_written():
    body = {"messages": [{"role": "user", "content": "hi"}], "n": 2.0}
    variables = {"ratio": 1.0, "deep": [2.0]}
    request = decode_request(
        json.dumps(body | {"chat_template_kwargs": variables}).encode(), ChatRequest
    )
    assert request.n == 2
    assert isinstance(request.chat_template_kwargs["ratio"], float)
    assert isinstance(request.chat_template_kwargs["deep"][0], float)


texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=12)


def mended(text: str) -> str:
    """By UTF-16, where halves are what a text is made of."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def escaped(document) -> bytes:
    return json.dumps(document).encode()


def raw(document) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("encode", [escaped, raw])
@pytest.mark.parametrize("mark", [b"", MARK])
@given(first=texts, second=texts, name=texts, stop=texts.filter(bool), whole_float=st.booleans())
def test_half_a_character_is_a_replacement_character_in_its_place(
    encode, mark, first, second, name, stop, whole_float
):
    document = {
        f"{name}, which no field is called": 1,
        "messages": [
            {"role": "user", "content": first, "name": name},
            {"role": "user", "content": [{"type": "text", "text": second}]},
        ],
        "stop": [stop],
        "chat_template_kwargs": {"word": first},
        "n": 1.0 if whole_float else 1,
    }
    request = decode_request(mark + encode(document), ChatRequest)
    assert request.messages[0].content == mended(first)
    assert request.messages[0].name == mended(name)
    assert request.messages[1].content[0].text == mended(second)
    assert request.stop == [mended(stop)]
    assert request.chat_template_kwargs == {"word": mended(first)}


@given(prompts=st.lists(texts, min_size=1, max_size=4))
def test_halves_are_mended_in_every_prompt(prompts):
    request = decode_request(escaped({"prompt": prompts}), CompletionRequest)
    assert request.prompt == [mended(prompt) for prompt in prompts]


def test_a_backslash_before_the_letters_of_a_half_is_text():
    body = rb'{"prompt": ["\\ud83d", "\\\ud83d", "\\\\ud83d\ud83d\ude00\ude00"]}'
    request = decode_request(body, CompletionRequest)
    assert request.prompt == ["\\ud83d", "\\\ufffd", "\\\\ud83d\U0001f600\ufffd"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_another_encoding_is_named(encoding):
    with pytest.raises(ApiError, match="expected UTF-8, got UTF-") as caught:
        decode_request('{"prompt": "hi"}'.encode(encoding), CompletionRequest)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


@pytest.mark.parametrize("body", [b"\0{}", b"\0" * 9, b"{\0", b"\xef\xbb\xbf\0", b"\0"])
def test_zero_bytes_that_are_no_encoding_are_not_called_one(body):
    with pytest.raises(ApiError, match=r"not valid JSON: (JSON|Input)") as caught:
        decode_request(body, CompletionRequest)
    assert caught.value.code == "invalid_json"


@given(body=st.binary(max_size=30))
def test_a_mark_changes_nothing_else(body):
    def outcome(sent):
        try:
            return decode_request(sent, CompletionRequest)
        except ApiError as error:
            return error.status, error.param, error.code

    if not body.startswith((MARK, b"\xff\xfe", b"\xfe\xff")) and 0 not in body[:4]:
        assert outcome(MARK + body) == outcome(body)


def test_repairs_are_linear_in_a_body_of_nothing_else():
    body = b'{"prompt": "' + rb"\ud83d\\" * 100_000 + b'"}'
    request = decode_request(body, CompletionRequest)
    assert request.prompt == "\ufffd\\" * 100_000
    fields = msgspec.json.encode({"tokens": [float(place % 7) for place in range(100_000)]})
    assert len(decode_request(fields, DetokenizeRequest).tokens) == 100_000

"""Streams over real sockets: what is sent, in which order, and how it ends."""

import asyncio

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.api.service import Timing
from device_runtime.generation.request import CloudUnavailableError
from tests.support.api_server import (
    CHAT,
    COMPLETIONS,
    STORY,
    USER,
    encoded,
    story_generator,
    story_server,
)
from tests.support.examples import at_most
from tests.support.fake_generator import FakeGenerator, always

BODY = {"messages": USER}
WITH_USAGE = {"stream_options": {"include_usage": True}}


async def chunks(path, body, generator=None, **changes):
    async with story_server(generator, **changes) as (client, _):
        return await client.chunks(path, body)


def choices_of(documents, index=0):
    return [
        choice
        for document in documents
        for choice in document["choices"]
        if choice["index"] == index
    ]


def contents(documents, index=0):
    """The texts of one chat choice; its end has none."""
    *choices, end = choices_of(documents, index)
    assert end["delta"] == {}
    return [choice["delta"]["content"] for choice in choices]


async def test_a_chat_stream_carries_the_role_with_the_first_text_and_the_reason_alone():
    documents = await chunks(CHAT, BODY)
    choices = [document["choices"][0] for document in documents]
    assert choices[0]["delta"] == {"role": "assistant", "content": " there"}
    assert all("role" not in choice["delta"] for choice in choices[1:])
    assert "".join(contents(documents)) == STORY
    reasons = [choice["finish_reason"] for choice in choices]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert len({document["id"] for document in documents}) == 1
    assert {document["object"] for document in documents} == {"chat.completion.chunk"}
    assert not any("usage" in document for document in documents)


async def test_a_completion_stream_is_the_document_in_pieces():
    documents = await chunks(COMPLETIONS, {"prompt": "a", "max_tokens": 50, "echo": True})
    assert documents[0]["choices"][0]["text"] == "a there"
    assert "".join(document["choices"][0]["text"] for document in documents) == "a" + STORY
    assert {document["object"] for document in documents} == {"text_completion"}


async def test_usage_comes_last_without_choices_and_only_when_asked_for():
    *documents, last = await chunks(CHAT, BODY | WITH_USAGE)
    assert [document["usage"] for document in documents] == [None] * len(documents)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == len(encoded(STORY)) + 1


async def test_continuous_usage_counts_the_tokens_of_rounds_that_decide_several():
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = BODY | {"max_tokens": 7, "stream_options": options}
    documents = await chunks(CHAT, body, story_generator(tokens_per_round=3))
    assert [document["usage"]["completion_tokens"] for document in documents] == [3, 6, 7, 7, 7]
    assert [len(document["choices"]) for document in documents] == [1, 1, 1, 1, 0]


@pytest.mark.parametrize("include_usage", [False, None])
async def test_continuous_usage_needs_usage(include_usage):
    options = {"include_usage": include_usage, "continuous_usage_stats": True}
    documents = await chunks(CHAT, BODY | {"stream_options": options})
    assert not any("usage" in document for document in documents)
    assert all(document["choices"] for document in documents)


async def test_nothing_but_pings_is_sent_before_the_first_token():
    generator = story_generator(gates={0: asyncio.Event()})
    async with story_server(generator, timing=Timing(ping_s=0.01)) as (client, generator):
        body = BODY | {"stream": True}
        origin = {"Origin": "http://localhost:3000"}
        async with client.http.post(client.url + CHAT, json=body, headers=origin) as response:
            headers = response.headers
            assert await response.content.readuntil(b"\n\n") == b": ping\n\n"
            generator.gates[0].set()
            while (frame := await response.content.readuntil(b"\n\n")) == b": ping\n\n":
                pass
        assert msgspec.json.decode(frame[6:])["choices"][0]["delta"]["role"] == "assistant"
        assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert headers["Cache-Control"] == "no-cache"
        assert headers["X-Accel-Buffering"] == "no"
        assert headers["Access-Control-Allow-Origin"] == origin["Origin"]
        assert headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CloudUnavailableError("the cloud was lost on the way"), "cloud_unavailable"),
        (ConnectionResetError("a link's own error"), "internal_error"),
        (TimeoutError("a link's own time"), "internal_error"),
        (asyncio.CancelledError(), "internal_error"),
        (RuntimeError("a bug"), "internal_error"),
    ],
)
async def test_a_failure_after_the_first_token_is_the_last_event(error, code):
    generator = story_generator(errors={2: error})
    async with story_server(generator) as (client, _):
        first, second, last = await client.events(CHAT, BODY)
    assert msgspec.json.decode(first)["choices"]
    assert msgspec.json.decode(second)["choices"]
    envelope = msgspec.json.decode(last)["error"]
    assert envelope["code"] == code
    assert envelope.keys() == {"message", "type", "param", "code"}
    assert (generator.num_open, generator.num_closed) == (0, 1)


async def test_a_failure_after_a_ping_is_an_event_too():
    error = CloudUnavailableError("gone")

    generator = story_generator(gates={0: asyncio.Event()}, errors={0: error})
    async with story_server(generator, timing=Timing(ping_s=0.01)) as (client, generator):
        body = BODY | {"stream": True}
        async with client.http.post(client.url + CHAT, json=body) as response:
            assert await response.content.readuntil(b"\n\n") == b": ping\n\n"
            generator.gates[0].set()
            rest = (await response.read()).decode()
        last = rest.split("\n\n")[-2].removeprefix("data: ")
        assert msgspec.json.decode(last)["error"]["code"] == "cloud_unavailable"


async def test_choices_run_side_by_side_and_are_told_apart_by_their_index():
    # None goes on before all three have begun.
    gates = {1: asyncio.Event()}
    async with story_server(FakeGenerator(always(encoded(STORY)), gates=gates)) as (
        client,
        generator,
    ):
        body = BODY | {"n": 3, "max_tokens": 5, "stream": True} | WITH_USAGE
        async with client.http.post(client.url + CHAT, json=body) as response:
            first = [await response.content.readuntil(b"\n\n") for _ in range(3)]
            generator.gates[1].set()
            rest = (await response.read()).split(b"\n\n")
        frames = [*first, *rest[:-2]]
        assert rest[-2:] == [b"data: [DONE]", b""]
        documents = [msgspec.json.decode(frame.removeprefix(b"data: ")) for frame in frames]
        for index in range(3):
            assert "".join(contents(documents, index)) == " there was a little do"
        assert documents[-1]["usage"]["completion_tokens"] == 15


async def test_later_choices_begin_as_earlier_ones_end():
    async with story_server(MeasuredGenerator(always(encoded(STORY))), max_side_by_side=2) as (
        client,
        generator,
    ):
        streamed = await client.chunks(CHAT, BODY | {"n": 7, "max_tokens": 3})
        _, document = await client.post(CHAT, BODY | {"n": 7, "max_tokens": 3})
        texts = [choice["message"]["content"] for choice in document["choices"]]
        assert texts == ["".join(contents(streamed, index)) for index in range(7)]
        assert generator.most_open == 2
        assert [request.is_let_in for request in generator.requests] == ([False] + [True] * 6) * 2


class MeasuredGenerator(FakeGenerator):
    """Counts how many run at once."""

    most_open = 0

    async def _rounds(self, request):
        self.most_open = max(self.most_open, self.num_open)
        async for emission in super()._rounds(request):
            await asyncio.sleep(0)
            yield emission


async def test_choices_that_wait_for_others_end_with_them():
    errors = {3: CloudUnavailableError("lost")}
    async with story_server(
        MeasuredGenerator(always(encoded(STORY)), errors=errors), max_side_by_side=2
    ) as (client, generator):
        events = await client.events(CHAT, BODY | {"n": 9, "max_tokens": 9})
        assert msgspec.json.decode(events[-1])["error"]["code"] == "cloud_unavailable"
        assert (generator.num_open, generator.num_closed) == (0, 2)
        generator.errors.clear()
        generator.gates[1] = asyncio.Event()
        body = BODY | {"n": 9, "stream": True}
        async with client.http.post(client.url + CHAT, json=body) as response:
            await response.content.readuntil(b"\n\n")
        await generator.until_all_closed()
        assert generator.num_closed == 4


async def test_one_failing_choice_ends_them_all():
    errors = {3: CloudUnavailableError("lost")}
    async with story_server(MeasuredGenerator(always(encoded(STORY)), errors=errors)) as (
        client,
        generator,
    ):
        events = await client.events(COMPLETIONS, {"prompt": ["a", "b"], "max_tokens": 9, "n": 2})
        assert msgspec.json.decode(events[-1])["error"]["code"] == "cloud_unavailable"
        assert (generator.num_open, generator.num_closed) == (0, 4)


async def test_a_character_of_several_tokens_comes_whole():
    ids = [*encoded("a"), 3 + 0xE4, 3 + 0xBD, 3 + 0xA0, *encoded("the")]
    documents = await chunks(CHAT, BODY | {"max_tokens": len(ids)}, FakeGenerator(always(ids)))
    assert contents(documents) == [" a", "你 the"]


@pytest.mark.parametrize("num_bytes", [1, 2, 3])
async def test_a_character_that_the_length_cuts_off_is_left_out_but_for_its_bytes(num_bytes):
    ids = [*encoded("a"), 3 + 0xF0, 3 + 0x9F, 3 + 0x98, 3 + 0x80]
    body = {"max_tokens": 1 + num_bytes, "logprobs": True, "top_logprobs": 0} | BODY

    async with story_server(FakeGenerator(always(ids))) as (client, _):
        _, document = await client.post(CHAT, body)
        _, completion = await client.post(
            COMPLETIONS, {"prompt": "b", "echo": True, "max_tokens": 1 + num_bytes}
        )
        documents = await client.chunks(CHAT, body)
    [whole] = document["choices"]
    assert whole["message"]["content"] == " a" == "".join(contents(documents))
    assert completion["choices"][0]["text"] == "b a"
    sent = [entry["bytes"] for entry in whole["logprobs"]["content"]]
    assert sent == [[32, 97], [0xF0], [0x9F], [0x98]][: 1 + num_bytes]
    *parts, end = choices_of(documents)
    assert [e["bytes"] for part in parts for e in part["logprobs"]["content"]] == sent
    assert (end["logprobs"], end["finish_reason"]) == (None, "length")
    assert document["usage"]["completion_tokens"] == 1 + num_bytes


async def test_a_prompt_of_ids_that_ends_in_half_a_character_is_continued_with_the_whole():
    prompt = [1, *encoded("a"), 3 + 0xE4, 3 + 0xBD]
    ids = [3 + 0xA0, *encoded("the")]
    body = {"prompt": prompt, "max_tokens": len(ids)}

    async with story_server(FakeGenerator(always(ids))) as (client, _):
        texts = [
            (await client.post(COMPLETIONS, {**body, "echo": echo}))[1]["choices"][0]["text"]
            for echo in (False, True)
        ]
    assert texts == ["你 the", "a你 the"]


async def test_text_that_may_begin_a_stop_string_is_held_and_given_at_the_end():
    ids = encoded("One day")
    body = BODY | {"max_tokens": len(ids), "stop": " day and night"}
    documents = await chunks(CHAT, body, FakeGenerator(always(ids)))
    assert "".join(contents(documents)) == " One day"
    assert contents(documents)[-1] == " day"
    assert documents[-1]["choices"][0]["finish_reason"] == "length"


@settings(max_examples=at_most(30), deadline=None)
@given(
    path=st.sampled_from([CHAT, COMPLETIONS]),
    max_tokens=st.integers(1, 14),
    n=st.integers(1, 3),
    tokens_per_round=st.integers(1, 5),
    stop=st.sampled_from([None, "le", " there"]),
    has_logprobs=st.booleans(),
    options=st.sampled_from([{}, WITH_USAGE]),
)
async def test_the_reason_of_an_end_comes_after_the_text_and_with_nothing_else(
    path, max_tokens, n, tokens_per_round, stop, has_logprobs, options
):
    body = {"max_tokens": max_tokens, "n": n, "stop": stop, **options}
    if path == CHAT:
        body |= BODY | {"logprobs": has_logprobs}
    else:
        body |= {"prompt": "a", "logprobs": 0 if has_logprobs else None}
    documents = await chunks(path, body, story_generator(tokens_per_round=tokens_per_round))
    if options:
        assert documents.pop()["choices"] == []
    for index in range(n):
        *parts, end = choices_of(documents, index)
        assert [part["finish_reason"] for part in parts] == [None] * len(parts)
        assert parts
        assert end["finish_reason"] in ("stop", "length")
        assert end["logprobs"] is None
        assert end.get("delta", {}) == {}
        assert end.get("text", "") == ""
        if path == CHAT:
            assert [part["delta"].get("role") for part in parts] == ["assistant"] + [None] * (
                len(parts) - 1
            )


@settings(max_examples=10, deadline=None)
@given(
    tokens_per_round=st.integers(1, 5),
    stop=st.sampled_from([" was a", "dog", "e d", "happy", "nowhere"]),
    num_logprobs=st.sampled_from([None, 1]),
)
async def test_a_stream_and_a_document_say_the_same(tokens_per_round, stop, num_logprobs):
    body = {"prompt": "a", "max_tokens": 40, "stop": stop, "logprobs": num_logprobs}

    generator = story_generator(tokens_per_round=tokens_per_round)
    async with story_server(generator) as (client, _):
        _, document = await client.post(COMPLETIONS, body)
        documents = await client.chunks(COMPLETIONS, body | WITH_USAGE)
    whole = document["choices"][0]
    parts = [choice for each in documents for choice in each["choices"]]
    assert "".join(part["text"] for part in parts) == whole["text"]
    assert parts[-1]["finish_reason"] == whole["finish_reason"]
    assert documents[-1]["usage"] == document["usage"]
    if num_logprobs is not None:
        for name, values in whole["logprobs"].items():
            assert [value for part in parts[:-1] for value in part["logprobs"][name]] == values

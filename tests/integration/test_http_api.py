"""The endpoint over real sockets: what is asked for and what is answered."""

import re

import pytest

from device_runtime.api.service import ModelCard
from tests.support.api_server import (
    CHAT,
    COMPLETIONS,
    MODEL,
    STORY,
    USER,
    encoded,
    post,
    story_generator,
    story_server,
)
from tests.support.fake_generator import FakeGenerator, always


def choice_texts(document):
    return [choice["text"] for choice in document["choices"]]


async def test_the_model_is_listed_and_found_by_its_name():
    async with story_server() as (client, _):
        async with client.http.get(client.url + "/v1/models") as response:
            models = await response.json()
        async with client.http.get(f"{client.url}/v1/models/{MODEL}") as response:
            model = await response.json()
        assert models.items() >= {"object": "list", "data": [model]}.items()
        assert model.items() >= {
            "id": MODEL, "object": "model", "owned_by": "hat", "max_model_len": 512
        }.items()  # fmt: skip
        assert isinstance(model["created"], int)


async def test_rows_that_are_rounded_on_the_link_are_named_with_the_model():
    def agreed() -> dict[str, str]:
        return {"prompt": "int6"}

    found = []
    for changes in ({"lossy_codecs": agreed}, {}):
        async with (
            story_server(**changes) as (client, _),
            client.http.get(f"{client.url}/v1/models/{MODEL}") as response,
        ):
            found.append(await response.json())
    assert found[0]["lossy_codecs"] == {"prompt": "int6"}
    assert "lossy_codecs" not in found[1]


async def test_a_chat_answer_ends_at_the_stop_token_with_exact_usage():
    status, document = await post(CHAT, {"model": MODEL, "messages": USER})
    assert status == 200
    assert document["object"] == "chat.completion"
    [choice] = document["choices"]
    assert choice["message"] == {"role": "assistant", "content": STORY, "refusal": None}
    assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "stop")
    num_prompt, num_generated = len(encoded(USER[0]["content"])) + 1, len(encoded(STORY)) + 1
    assert document["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_generated,
        "total_tokens": num_prompt + num_generated,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


async def test_the_plain_template_begins_with_one_special_token_and_a_default_of_all_the_context():
    generator = story_generator()
    in_parts = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    await post(CHAT, {"messages": [*USER, in_parts]}, generator)
    [request] = generator.requests
    assert request.prompt_ids == [1, *encoded("Once upon a time,\nx")]
    assert request.max_tokens == 512 - len(request.prompt_ids)
    assert request.stop_token_ids == {1, 2}


async def test_fields_reach_the_generator():
    generator = story_generator()
    body = {
        "prompt": [1, 403],
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": -1,
        "min_p": 0.1,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "repetition_penalty": 1.1,
        "logit_bias": {"7": -100},
        "seed": -1,
        "ignore_eos": True,
        "stop_token_ids": [9],
        "min_tokens": 2,
        "logprobs": 3,
    }
    await post(COMPLETIONS, body, generator)
    [request] = generator.requests
    assert request.prompt_ids == [1, 403]
    assert (request.max_tokens, request.min_tokens, request.num_logprobs) == (5, 2, 3)
    assert request.stop_token_ids == {9}
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (
        0.5, 0.9, 0, 0.1
    )  # fmt: skip
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1, -1)
    assert (sampling.repetition_penalty, sampling.logit_bias) == (1.1, {7: -100})
    assert sampling.seed == 2**64 - 1


async def test_max_completion_tokens_comes_before_max_tokens_and_completions_get_sixteen():
    generator = FakeGenerator(always(encoded(STORY)))
    await post(CHAT, {"messages": USER, "max_tokens": 9, "max_completion_tokens": 3}, generator)
    _, document = await post(COMPLETIONS, {"prompt": "Once"}, generator)
    assert [request.max_tokens for request in generator.requests] == [3, 16]
    assert document["choices"][0]["finish_reason"] == "length"
    assert document["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    ("prompt", "num_prompts"),
    [("Once", 1), (["Once", "One day"], 2), ([1, 403], 1), ([[1, 403], [1, 410], [1]], 3)],
)
async def test_prompts_may_be_texts_or_token_ids_or_lists_of_them(prompt, num_prompts):
    generator = story_generator()
    status, document = await post(
        COMPLETIONS, {"prompt": prompt, "max_tokens": 2, "n": 2}, generator
    )
    assert status == 200
    assert [choice["index"] for choice in document["choices"]] == list(range(2 * num_prompts))
    prompts = [tuple(request.prompt_ids) for request in generator.requests]
    assert len(set(prompts)) == num_prompts
    assert document["usage"]["prompt_tokens"] == sum(len(each) for each in set(prompts))
    assert document["usage"]["completion_tokens"] == 4 * num_prompts


async def test_choices_differ_by_seeds_that_depend_on_the_requests_seed_alone():
    first, second = story_generator(), story_generator()
    for generator in (first, second):
        await post(CHAT, {"messages": USER, "n": 3, "seed": 7, "max_tokens": 1}, generator)
    seeds = [request.sampling.seed for request in first.requests]
    assert len(set(seeds)) == 3
    assert seeds[0] == 7
    assert seeds == [request.sampling.seed for request in second.requests]


async def test_a_stop_string_over_token_borders_is_cut_off():
    status, document = await post(
        COMPLETIONS, {"prompt": "a", "max_tokens": 50, "stop": ["le d", "zz"]}
    )
    assert status == 200
    assert choice_texts(document) == [" there was a litt"]
    assert document["choices"][0]["finish_reason"] == "stop"


async def test_echo_puts_the_prompt_first_and_moves_nothing_else():
    status, document = await post(COMPLETIONS, {"prompt": "Once", "echo": True, "max_tokens": 50})
    assert status == 200
    assert choice_texts(document) == ["Once" + STORY]
    _, document = await post(
        COMPLETIONS, {"prompt": [1, *encoded("Once")], "echo": True, "max_tokens": 50}
    )
    assert choice_texts(document) == ["Once" + STORY]


async def test_log_probabilities_in_the_shape_of_completions():
    _, document = await post(COMPLETIONS, {"prompt": "a", "max_tokens": 50, "logprobs": 2})
    [choice] = document["choices"]
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"] == STORY
    num_tokens = len(encoded(STORY))
    assert logprobs["token_logprobs"] == [-0.25 * (place + 1) for place in range(num_tokens)]
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert choice["text"][offset:].startswith(token)
    for token, logprob, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        assert top[token] == logprob
        assert len(top) <= 3


async def test_log_probabilities_in_the_shape_of_chat_have_the_bytes_of_half_characters():
    ids = [3 + 0xE4, 3 + 0xBD, 3 + 0xA0]
    body = {"messages": USER, "max_tokens": 3, "logprobs": True, "top_logprobs": 2}
    _, document = await post(CHAT, body, FakeGenerator(always(ids)))
    [choice] = document["choices"]
    content = choice["logprobs"]["content"]
    assert choice["message"]["content"] == "你"
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode() == "你"
    assert [len(entry["top_logprobs"]) for entry in content] == [2, 2, 2]
    assert content[0]["top_logprobs"][0].keys() == {"token", "logprob", "bytes"}


async def test_zero_log_probabilities_are_the_chosen_tokens_alone():
    _, document = await post(COMPLETIONS, {"prompt": "a", "max_tokens": 2, "logprobs": 0})
    assert [len(top) for top in document["choices"][0]["logprobs"]["top_logprobs"]] == [1, 1]
    _, document = await post(CHAT, {"messages": USER, "max_tokens": 2, "logprobs": True})
    content = document["choices"][0]["logprobs"]["content"]
    assert [entry["top_logprobs"] for entry in content] == [[], []]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "the " * 600}]}),
        (CHAT, {"messages": USER, "max_tokens": 512}),
        (COMPLETIONS, {"prompt": "the " * 600}),
        (COMPLETIONS, {"prompt": "the", "max_tokens": 511}),
        (COMPLETIONS, {"prompt": [1] * 512}),
        (COMPLETIONS, {"prompt": ["the", "the " * 600], "stream": True}),
    ],
)
async def test_too_long_for_the_context_is_a_400_with_both_numbers(path, body):
    generator = story_generator()
    status, document = await post(path, body, generator)
    error = document["error"]
    assert (status, error["code"]) == (400, "context_length_exceeded")
    assert error["message"].startswith("This model's maximum context length is 512 tokens.")
    assert [int(number) for number in re.findall(r"\d+", error["message"])][1] >= 512
    assert generator.requests == []


async def test_a_request_that_fills_the_context_exactly_is_served():
    status, document = await post(
        COMPLETIONS, {"prompt": [1] * 500, "max_tokens": 12, "ignore_eos": True}
    )
    assert (status, document["usage"]["total_tokens"]) == (200, 512)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (COMPLETIONS, {"prompt": [512]}, "prompt"),
        (COMPLETIONS, {"prompt": []}, "prompt"),
        (COMPLETIONS, {"prompt": [[1], []]}, "prompt"),
        (COMPLETIONS, {"prompt": ["a", [1]]}, "prompt"),
        (COMPLETIONS, {"prompt": ["a"] * 65}, "prompt"),
        (COMPLETIONS, {"prompt": ["a"] * 2, "n": 65}, "prompt"),
        (COMPLETIONS, {"prompt": "a", "logit_bias": {"512": 1}}, "logit_bias"),
        (COMPLETIONS, {"prompt": "a", "stop_token_ids": [512]}, "stop_token_ids"),
        (COMPLETIONS, {"prompt": "a", "min_tokens": 17}, "min_tokens"),
        (COMPLETIONS, {"prompt": "a", "max_tokens": 0, "logprobs": 1}, "max_tokens"),
        (COMPLETIONS, {"prompt": "a", "prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        (COMPLETIONS, {"prompt": "a", "stream_options": {}}, "stream_options"),
        (CHAT, {"messages": USER, "top_logprobs": 2}, "top_logprobs"),
        (CHAT, {"messages": USER, "chat_template_kwargs": {"messages": []}},
         "chat_template_kwargs.messages"),
        (COMPLETIONS, {"prompt": "a", "allowed_token_ids": [512]}, "allowed_token_ids"),
        (CHAT, {"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
        (CHAT, {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
         "messages[0].tool_calls[0]"),
        (CHAT, {"messages": [*USER, {"role": "user", "content": [{"type": "image_url"}]}]},
         "messages[1].content[0].type"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "messages[0].content[0].text"),
    ],
)  # fmt: skip
async def test_what_does_not_fit_is_refused_by_its_name(path, body, param):
    status, document = await post(path, body)
    assert (status, document["error"]["param"]) == (400, param)
    assert document["error"]["type"] == "invalid_request_error"


async def test_an_unknown_model_is_not_found_and_a_left_out_one_is_the_one_served():
    status, document = await post(CHAT, {"model": "gpt-9", "messages": USER})
    assert (status, document["error"]["code"]) == (404, "model_not_found")
    status, _ = await post(CHAT, {"messages": USER})
    assert status == 200


async def test_a_model_of_several_names_answers_to_each_and_carries_the_first():
    names = (MODEL, "gpt-4o-mini", "Org/Model")
    model = ModelCard(names[0], "stories", 0, "ab" * 32, eos_token_ids=(2,), aliases=names[1:])

    async with story_server(model=model) as (client, _):
        async with client.http.get(client.url + "/v1/models") as response:
            listed = await response.json()
        assert [entry["id"] for entry in listed["data"]] == list(names)
        for name in names:
            async with client.http.get(f"{client.url}/v1/models/{name}") as response:
                assert (await response.json())["id"] == name
            status, document = await client.post(CHAT, {"model": name, "messages": USER})
            assert (status, document["model"]) == (200, names[0])
        status, document = await client.post(CHAT, {"model": "gpt-9", "messages": USER})
        assert status == 404
        assert all(name in document["error"]["message"] for name in names)

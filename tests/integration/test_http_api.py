"""The endpoint over real sockets: documents, errors, keys, origins, names."""

import asyncio
import gzip
import re

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from device_runtime.api.service import AccessRules
from device_runtime.generation import CloudUnavailableError, OverloadedError
from tests.support.api_server import MODEL, make_service, serving
from tests.support.fake_generator import FakeGenerator, always
from tests.support.tokenizers import story_tokenizer

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
STORY = " there was a little dog. He was happy"
USER = [{"role": "user", "content": "Once upon a time,"}]
EOS = 2


def encoded(text):
    # The tokenizer puts a space before a text; a continuation keeps it.
    return story_tokenizer().encode(text.removeprefix(" "), add_special_tokens=False)


def story_generator(**changes):
    return FakeGenerator(always([*encoded(STORY), EOS]), **changes)


def with_server(test, generator=None, **changes):
    """Run an async test against a server over a fake generator."""

    async def run():
        used = generator or story_generator()
        async with serving(make_service(used, **changes)) as client:
            return await test(client, used)

    return asyncio.run(run())


def post(path, body, generator=None, **options):
    return with_server(lambda client, _: client.post(path, body, **options), generator)


def choice_texts(document):
    return [choice["text"] for choice in document["choices"]]


def test_the_model_is_listed_and_found_by_its_name():
    async def test(client, _):
        async with client.http.get(client.url + "/v1/models") as response:
            models = await response.json()
        async with client.http.get(f"{client.url}/v1/models/{MODEL}") as response:
            model = await response.json()
        assert models == {"object": "list", "data": [model]}
        assert model.items() >= {
            "id": MODEL, "object": "model", "owned_by": "hat", "max_model_len": 512
        }.items()  # fmt: skip
        assert isinstance(model["created"], int)

    with_server(test)


def test_a_chat_answer_ends_at_the_stop_token_with_exact_usage():
    status, document = post(CHAT, {"model": MODEL, "messages": USER})
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
    }


def test_the_plain_template_begins_with_one_special_token_and_a_default_of_all_the_context():
    generator = story_generator()
    post(CHAT, {"messages": [*USER, {"role": "user", "content": [{"type": "text", "text": "x"}]}]},
         generator)  # fmt: skip
    [request] = generator.requests
    assert request.prompt_ids == [1, *encoded("Once upon a time,\nx")]
    assert request.max_tokens == 512 - len(request.prompt_ids)
    assert request.stop_token_ids == {1, 2}


def test_fields_reach_the_generator():
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
    post(COMPLETIONS, body, generator)
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


def test_max_completion_tokens_comes_before_max_tokens_and_completions_get_sixteen():
    generator = FakeGenerator(always(encoded(STORY)))
    post(CHAT, {"messages": USER, "max_tokens": 9, "max_completion_tokens": 3}, generator)
    _, document = post(COMPLETIONS, {"prompt": "Once"}, generator)
    assert [request.max_tokens for request in generator.requests] == [3, 16]
    assert document["choices"][0]["finish_reason"] == "length"
    assert document["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    ("prompt", "num_prompts"),
    [("Once", 1), (["Once", "One day"], 2), ([1, 403], 1), ([[1, 403], [1, 410], [1]], 3)],
)
def test_prompts_may_be_texts_or_token_ids_or_lists_of_them(prompt, num_prompts):
    generator = story_generator()
    status, document = post(COMPLETIONS, {"prompt": prompt, "max_tokens": 2, "n": 2}, generator)
    assert status == 200
    assert [choice["index"] for choice in document["choices"]] == list(range(2 * num_prompts))
    prompts = [tuple(request.prompt_ids) for request in generator.requests]
    assert len(set(prompts)) == num_prompts
    assert document["usage"]["prompt_tokens"] == sum(len(each) for each in set(prompts))
    assert document["usage"]["completion_tokens"] == 4 * num_prompts


def test_choices_differ_by_seeds_that_depend_on_the_requests_seed_alone():
    first, second = story_generator(), story_generator()
    for generator in (first, second):
        post(CHAT, {"messages": USER, "n": 3, "seed": 7, "max_tokens": 1}, generator)
    seeds = [request.sampling.seed for request in first.requests]
    assert len(set(seeds)) == 3
    assert seeds[0] == 7
    assert seeds == [request.sampling.seed for request in second.requests]


def test_a_stop_string_over_token_borders_is_cut_off():
    status, document = post(COMPLETIONS, {"prompt": "a", "max_tokens": 50, "stop": ["le d", "zz"]})
    assert status == 200
    assert choice_texts(document) == [" there was a litt"]
    assert document["choices"][0]["finish_reason"] == "stop"


def test_echo_puts_the_prompt_first_and_moves_nothing_else():
    status, document = post(COMPLETIONS, {"prompt": "Once", "echo": True, "max_tokens": 50})
    assert status == 200
    assert choice_texts(document) == ["Once" + STORY]
    _, document = post(
        COMPLETIONS, {"prompt": [1, *encoded("Once")], "echo": True, "max_tokens": 50}
    )
    assert choice_texts(document) == ["Once" + STORY]


def test_log_probabilities_in_the_shape_of_completions():
    _, document = post(COMPLETIONS, {"prompt": "a", "max_tokens": 50, "logprobs": 2})
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


def test_log_probabilities_in_the_shape_of_chat_have_the_bytes_of_half_characters():
    ids = [3 + 0xE4, 3 + 0xBD, 3 + 0xA0]
    body = {"messages": USER, "max_tokens": 3, "logprobs": True, "top_logprobs": 2}
    _, document = post(CHAT, body, FakeGenerator(always(ids)))
    [choice] = document["choices"]
    content = choice["logprobs"]["content"]
    assert choice["message"]["content"] == "你"
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode() == "你"
    assert [len(entry["top_logprobs"]) for entry in content] == [2, 2, 2]
    assert content[0]["top_logprobs"][0].keys() == {"token", "logprob", "bytes"}


def test_zero_log_probabilities_are_the_chosen_tokens_alone():
    _, document = post(COMPLETIONS, {"prompt": "a", "max_tokens": 2, "logprobs": 0})
    assert [len(top) for top in document["choices"][0]["logprobs"]["top_logprobs"]] == [1, 1]
    _, document = post(CHAT, {"messages": USER, "max_tokens": 2, "logprobs": True})
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
def test_too_long_for_the_context_is_a_400_with_both_numbers(path, body):
    generator = story_generator()
    status, document = post(path, body, generator)
    error = document["error"]
    assert (status, error["code"]) == (400, "context_length_exceeded")
    assert error["message"].startswith("This model's maximum context length is 512 tokens.")
    assert [int(number) for number in re.findall(r"\d+", error["message"])][1] >= 512
    assert generator.requests == []


def test_a_request_that_fills_the_context_exactly_is_served():
    status, document = post(
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
        (COMPLETIONS, {"prompt": ["a"] * 33, "n": 2}, "prompt"),
        (COMPLETIONS, {"prompt": "a", "logit_bias": {"512": 1}}, "logit_bias"),
        (COMPLETIONS, {"prompt": "a", "stop_token_ids": [512]}, "stop_token_ids"),
        (COMPLETIONS, {"prompt": "a", "min_tokens": 17}, "min_tokens"),
        (COMPLETIONS, {"prompt": "a", "echo": True, "logprobs": 1}, "logprobs"),
        (COMPLETIONS, {"prompt": "a", "stream_options": {}}, "stream_options"),
        (CHAT, {"messages": USER, "top_logprobs": 2}, "top_logprobs"),
        (CHAT, {"messages": USER, "chat_template_kwargs": {"messages": []}},
         "chat_template_kwargs.messages"),
        (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
        (CHAT, {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
         "messages[0].tool_calls"),
        (CHAT, {"messages": [*USER, {"role": "user", "content": [{"type": "image_url"}]}]},
         "messages[1].content[0].type"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "messages[0].content[0].text"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_its_name(path, body, param):
    status, document = post(path, body)
    assert (status, document["error"]["param"]) == (400, param)
    assert document["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_is_not_found_and_a_left_out_one_is_the_one_served():
    status, document = post(CHAT, {"model": "gpt-9", "messages": USER})
    assert (status, document["error"]["code"]) == (404, "model_not_found")
    status, _ = post(CHAT, {"messages": USER})
    assert status == 200


def test_every_status_has_the_one_envelope():
    async def test(client, _):
        answers = {}
        for method, path, body in (
            ("GET", "/nowhere", None),
            ("GET", CHAT, None),
            ("POST", "/v1/models", b"{}"),
            ("POST", CHAT, b"{"),
            ("POST", CHAT, b" " * (2 << 20)),
            ("GET", "/v1/models/other", None),
        ):
            async with client.http.request(method, client.url + path, data=body) as response:
                envelope = msgspec.json.decode(await response.read())
                assert envelope["error"].keys() == {"message", "type", "param", "code"}
                assert response.headers["X-Request-ID"]
                answers[method, path, response.status] = response.headers.get("Allow")
        assert [status for _, _, status in answers] == [404, 405, 405, 400, 413, 404]
        assert answers["GET", CHAT, 405] == "POST"
        assert set(answers["POST", "/v1/models", 405].split(",")) == {"GET", "HEAD"}

    with_server(test)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (CloudUnavailableError("the cloud cannot be reached", 2.5), 503, "cloud_unavailable"),
        (OverloadedError("the queue is full", 0.2), 429, "overloaded"),
        (RuntimeError("a secret in a message"), 500, "internal_error"),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_failure_before_the_first_token_is_a_status(error, status, code, is_stream):
    async def test(client, generator):
        body = {"messages": USER, "stream": is_stream}
        async with client.http.post(client.url + CHAT, json=body) as response:
            envelope = await response.json()
        assert (response.status, envelope["error"]["code"]) == (status, code)
        assert "secret" not in envelope["error"]["message"]
        retry = {503: "3", 429: "1"}.get(status)
        assert response.headers.get("Retry-After") == retry
        assert (generator.num_open, generator.num_closed) == (0, 1)

    with_server(test, story_generator(errors={0: error}))


def test_a_bug_is_logged_by_place_and_type_without_its_message(caplog):
    post(CHAT, {"messages": USER}, story_generator(errors={0: RuntimeError("private text")}))
    assert "RuntimeError in _meet" in caplog.text
    assert "private text" not in caplog.text


def test_one_log_line_per_request_with_its_name_and_nothing_of_the_prompt(caplog):
    caplog.set_level("DEBUG")
    post(CHAT, {"messages": USER}, headers={"X-Request-ID": "mine"})
    [record] = [record for record in caplog.records if record.message == "request"]
    assert record.fields.items() >= {"route": CHAT, "status": 200, "request_id": "mine"}.items()
    assert "Once" not in caplog.text
    assert "Once" not in str(record.fields)


def test_readiness_tells_the_reason_while_liveness_stays():
    async def test(client, generator):
        for reason, status in (("the cloud refused the key", 503), (None, 200)):
            generator.not_ready = reason
            async with client.http.get(client.url + "/ready") as response:
                assert response.status == status
                assert reason is None or reason in await response.text()
                assert ("Retry-After" in response.headers) == (status == 503)
            async with client.http.get(client.url + "/health") as response:
                assert response.status == 200

    with_server(test)


def test_with_a_key_only_probes_are_open():
    async def test(client, _):
        for path in ("/", "/v1/models", "/metrics", "/nowhere", CHAT):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic key"}):
                async with client.http.get(client.url + path, headers=headers) as response:
                    assert response.status == 401
                    assert (await response.json())["error"]["code"] == "invalid_api_key"
            right = {"Authorization": "bearer key"}
            async with client.http.get(client.url + path, headers=right) as response:
                assert response.status != 401
        for path in ("/health", "/ready"):
            async with client.http.get(client.url + path) as response:
                assert response.status == 200

    with_server(test, access=AccessRules(api_key="key"))


def test_without_a_key_any_bearer_will_do():
    status, _ = post(CHAT, {"messages": USER}, headers={"Authorization": "Bearer anything"})
    assert status == 200


PREFLIGHT = {
    "Origin": "https://chat.example",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}


def test_a_preflight_needs_no_key_and_allows_the_headers_asked_for():
    async def test(client, _):
        async with client.http.options(client.url + CHAT, headers=PREFLIGHT) as response:
            assert response.status == 204
            headers = response.headers
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert "POST" in headers["Access-Control-Allow-Methods"]
        allowed = headers["Access-Control-Allow-Headers"]
        assert allowed == PREFLIGHT["Access-Control-Request-Headers"]

    with_server(test, access=AccessRules(api_key="key"))


def test_only_listed_origins_are_let_in_on_documents_streams_and_errors():
    async def test(client, _):
        for origin, expected in (("https://a.example", True), ("https://b.example", False)):
            for body in ({"messages": USER}, {"messages": USER, "stream": True}, {}):
                headers = {"Origin": origin}
                async with client.http.post(
                    client.url + CHAT, json=body, headers=headers
                ) as response:
                    allowed = response.headers.get("Access-Control-Allow-Origin")
                assert allowed == (origin if expected else None)
                assert "Origin" in response.headers["Vary"]

    with_server(test, access=AccessRules(cors_origins=("https://a.example",)))


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_requests_name_is_kept_when_it_is_plain_and_goes_on_to_the_generator(is_stream):
    async def test(client, generator):
        for given in ("my-id.1", "x" * 129, "two words", ""):
            body = {"messages": USER, "stream": is_stream}
            headers = {"X-Request-ID": given}
            async with client.http.post(client.url + CHAT, json=body, headers=headers) as response:
                name = response.headers["X-Request-ID"]
            assert (name == given) == (given == "my-id.1")
            assert generator.request_ids[-1] == name

    with_server(test)


def test_any_content_type_is_read_as_json_but_a_form_with_files():
    async def test(client, _):
        body = msgspec.json.encode({"messages": USER})
        for content_type, expected in (
            ("application/x-www-form-urlencoded", 200),
            ("text/plain", 200),
            ("application/json; charset=utf-8", 200),
            ("multipart/form-data; boundary=x", 415),
        ):
            headers = {"Content-Type": content_type}
            status, _ = await client.post(CHAT, body, headers=headers)
            assert status == expected

    with_server(test)


def test_a_packed_body_is_unpacked_within_the_limit_and_a_broken_one_refused():
    async def test(client, _):
        packed = {"Content-Encoding": "gzip"}
        body = gzip.compress(msgspec.json.encode({"messages": USER}))
        for data, expected in ((body, 200), (gzip.compress(b" " * (8 << 20)), 413), (b"x", 400)):
            status, _ = await client.post(CHAT, data, headers=packed)
            assert status == expected

    with_server(test)


def test_tokens_of_a_text_or_a_conversation_and_back():
    async def test(client, _):
        _, tokens = await client.post("/tokenize", {"prompt": "Once", "return_token_strs": True})
        assert tokens["tokens"] == [1, *encoded("Once")]
        assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
        assert tokens["max_model_len"] == 512
        _, chat = await client.post(
            "/tokenize", {"messages": [{"role": "user", "content": "Once"}]}
        )
        assert chat["tokens"] == tokens["tokens"]
        _, text = await client.post("/detokenize", {"tokens": tokens["tokens"]})
        assert text == {"prompt": story_tokenizer().decode(tokens["tokens"], False)}
        status, _ = await client.post("/tokenize", {})
        assert status == 400

    with_server(test)


def test_metrics_count_what_was_generated_under_vllms_names():
    async def test(client, _):
        await client.post(CHAT, {"messages": USER, "max_tokens": 3})
        await client.post(CHAT, {"messages": USER})
        async with client.http.get(client.url + "/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            return await response.text()

    values = {
        (sample.name, sample.labels.get("finished_reason")): sample.value
        for family in text_string_to_metric_families(with_server(test))
        for sample in family.samples
    }
    num_prompt, num_story = len(encoded(USER[0]["content"])) + 1, len(encoded(STORY)) + 1
    assert values["hat_prompt_tokens_total", None] == 2 * num_prompt
    assert values["hat_generation_tokens_total", None] == 3 + num_story
    assert values["hat_request_success_total", "length"] == 1
    assert values["hat_request_success_total", "stop"] == 1
    assert values["hat_time_to_first_token_seconds_count", None] == 2
    assert values["hat_inter_token_latency_seconds_count", None] == 2 + num_story - 1
    assert values["hat_e2e_request_latency_seconds_count", None] == 2
    assert values["hat_num_requests_running", None] == 0
    assert values["hat_num_requests_waiting", None] == 0
    assert values["hat_spec_decode_num_drafts_total", None] == 2 * 2
    assert values["hat_spec_decode_num_draft_tokens_total", None] == 2 * 8
    assert values["hat_spec_decode_num_accepted_tokens_total", None] == 2 * 5


def test_the_root_says_what_this_is():
    async def test(client, _):
        async with client.http.get(client.url) as response:
            assert (await response.json())["model"] == MODEL
        async with client.http.head(client.url + "/metrics") as response:
            assert response.status == 200

    with_server(test)


def test_a_long_prompt_is_encoded_beside_the_event_loop():
    status, document = post("/tokenize", {"prompt": "the " * 20_000})
    assert (status, document["count"]) == (200, len(encoded("the " * 20_000)) + 1)

"""The endpoint over real sockets: errors, keys, origins, names, and what operators see."""

import asyncio
import gzip
from collections.abc import Sequence
from io import BytesIO

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from device_runtime.api.service import AccessRules
from device_runtime.generation.request import (
    CloudUnavailableError,
    GenerationRequest,
    OverloadedError,
)
from tests.support.api_server import (
    CHAT,
    MODEL,
    STORY,
    USER,
    encoded,
    post,
    story_generator,
    story_server,
)
from tests.support.tokenizers import story_tokenizer


async def test_every_status_has_the_one_envelope():
    async with story_server() as (client, _):
        answers = {}
        for method, path, body in (
            ("GET", "/nowhere", None),
            ("GET", CHAT, None),
            ("POST", "/v1/models", b"{}"),
            ("POST", CHAT, b"{"),
            ("POST", CHAT, BytesIO(b" " * (2 << 20))),
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


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (CloudUnavailableError("the cloud cannot be reached", 2.5), 503, "cloud_unavailable"),
        (OverloadedError("the queue is full", 0.2), 429, "overloaded"),
        (RuntimeError("a secret in a message"), 500, "internal_error"),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_failure_before_the_first_token_is_a_status(error, status, code, is_stream):
    async with story_server(story_generator(errors={0: error})) as (client, generator):
        body = {"messages": USER, "stream": is_stream}
        async with client.http.post(client.url + CHAT, json=body) as response:
            envelope = await response.json()
        assert (response.status, envelope["error"]["code"]) == (status, code)
        assert "secret" not in envelope["error"]["message"]
        retry = {503: "3", 429: "1"}.get(status)
        assert response.headers.get("Retry-After") == retry
        assert (generator.num_open, generator.num_closed) == (0, 1)


async def test_a_bug_is_logged_by_place_and_type_without_its_message(caplog):
    await post(CHAT, {"messages": USER}, story_generator(errors={0: RuntimeError("private text")}))
    assert "RuntimeError in _meet" in caplog.text
    assert "private text" not in caplog.text


async def test_one_log_line_per_request_with_its_name_and_nothing_of_the_prompt(caplog):
    caplog.set_level("DEBUG")
    await post(CHAT, {"messages": USER}, headers={"X-Request-ID": "mine"})
    [record] = [record for record in caplog.records if record.message == "request"]
    assert record.fields.items() >= {"route": CHAT, "status": 200, "request_id": "mine"}.items()
    assert "Once" not in caplog.text
    assert "Once" not in str(record.fields)


async def test_readiness_tells_the_reason_while_liveness_stays():
    async with story_server() as (client, generator):
        for reason, status in (("the cloud refused the key", 503), (None, 200)):
            generator.not_ready = reason
            async with client.http.get(client.url + "/ready") as response:
                assert response.status == status
                assert reason is None or reason in await response.text()
                assert ("Retry-After" in response.headers) == (status == 503)
            async with client.http.get(client.url + "/health") as response:
                assert response.status == 200


async def test_with_a_key_only_probes_are_open():
    async with story_server(access=AccessRules(api_key="key")) as (client, _):
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


async def test_without_a_key_any_bearer_will_do():
    status, _ = await post(CHAT, {"messages": USER}, headers={"Authorization": "Bearer anything"})
    assert status == 200


PREFLIGHT = {
    "Origin": "https://chat.example",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}


async def test_a_preflight_needs_no_key_and_allows_the_headers_asked_for():
    async with story_server(access=AccessRules(api_key="key", cors_origins=("*",))) as (client, _):
        async with client.http.options(client.url + CHAT, headers=PREFLIGHT) as response:
            assert response.status == 204
            headers = response.headers
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert {"POST", "DELETE"} <= {*headers["Access-Control-Allow-Methods"].split(", ")}
        allowed = headers["Access-Control-Allow-Headers"]
        assert allowed == PREFLIGHT["Access-Control-Request-Headers"]


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("http://localhost:3000", True),
        ("https://127.0.0.1", True),
        ("http://[::1]:8080", True),
        ("https://example.org", False),
        ("http://localhost.example.org", False),
        ("http://[", False),
        ("null", False),
    ],
)
async def test_pages_of_this_machine_are_let_in_and_no_others_unless_listed(origin, is_allowed):
    async with story_server() as (client, _):
        headers = {"Origin": origin}
        async with client.http.get(client.url + "/v1/models", headers=headers) as response:
            allowed = response.headers.get("Access-Control-Allow-Origin")
        assert allowed == (origin if is_allowed else None)


async def test_only_listed_origins_are_let_in_on_documents_streams_and_errors():
    async with story_server(access=AccessRules(cors_origins=("https://a.example",))) as (client, _):
        for origin, expected in (("https://a.example", True), ("https://b.example", False)):
            for body in ({"messages": USER}, {"messages": USER, "stream": True}, {}):
                headers = {"Origin": origin}
                async with client.http.post(
                    client.url + CHAT, json=body, headers=headers
                ) as response:
                    allowed = response.headers.get("Access-Control-Allow-Origin")
                assert allowed == (origin if expected else None)
                assert "Origin" in response.headers["Vary"]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_requests_name_is_kept_when_it_is_plain_and_goes_on_to_the_generator(is_stream):
    async with story_server() as (client, generator):
        for given in ("my-id.1", "x" * 129, "two words", ""):
            body = {"messages": USER, "stream": is_stream}
            headers = {"X-Request-ID": given}
            async with client.http.post(client.url + CHAT, json=body, headers=headers) as response:
                name = response.headers["X-Request-ID"]
            assert (name == given) == (given == "my-id.1")
            assert generator.request_ids[-1] == name


async def test_any_content_type_is_read_as_json_but_a_form_with_files():
    async with story_server() as (client, _):
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


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "nonsense"])
async def test_a_packed_body_is_refused_in_the_envelope(encoding):
    async with story_server() as (client, _):
        body = gzip.compress(msgspec.json.encode({"messages": USER}))
        for data in (body, gzip.compress(b" " * (8 << 20)), b"x"):
            headers = {"Content-Encoding": encoding}
            status, document = await client.post(CHAT, data, headers=headers)
            assert status == 415
            assert document["error"]["code"] == "unsupported_content_encoding"


async def test_tokens_of_a_text_or_a_conversation_and_back():
    async with story_server() as (client, _):
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


def parsed(page: str) -> dict[tuple[str, str | None], float]:
    """The samples of `/metrics` by name and finish reason."""
    return {
        (sample.name, sample.labels.get("finished_reason")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def test_metrics_count_what_was_generated_under_vllms_names():
    async with story_server() as (client, _):
        await client.post(CHAT, {"messages": USER, "max_tokens": 3})
        await client.post(CHAT, {"messages": USER})
        async with client.http.get(client.url + "/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            values = parsed(await response.text())
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


async def test_choices_of_a_request_that_failed_have_failed_and_no_client_has_left():
    def answer(_: GenerationRequest) -> Sequence[int]:
        if len(generator.requests) == 2:
            raise CloudUnavailableError("the cloud cannot be reached", 2.5)
        return encoded(STORY)

    generator = story_generator(gates={0: asyncio.Event()})
    generator.answer = answer
    async with story_server(generator) as (client, _):
        status, _ = await client.post(CHAT, {"messages": USER, "n": 3})
        assert status == 503
        async with client.http.get(client.url + "/metrics") as response:
            counts = parsed(await response.text())
    name = "hat_request_success_total"
    assert {reason: counts[name, reason] for reason in ("error", "abort", "stop")} == {
        "error": 3,
        "abort": 0,
        "stop": 0,
    }


async def test_the_root_says_what_this_is():
    async with story_server() as (client, _):
        async with client.http.get(client.url) as response:
            assert (await response.json())["model"] == MODEL
        async with client.http.head(client.url + "/metrics") as response:
            assert response.status == 200


async def test_a_long_prompt_is_encoded_beside_the_event_loop():
    generator = story_generator(max_context_tokens=1 << 16)
    status, document = await post("/tokenize", {"prompt": "the " * 20_000}, generator)
    assert (status, document["count"]) == (200, len(encoded("the " * 20_000)) + 1)

"""What happened to a request: the opt-in field, the headers, and the metrics; never any text."""

import logging
import math
import re

import msgspec
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.api_server import CHAT, COMPLETIONS, USER, story_generator, story_server
from tests.support.stack import running_stack, split_for_serving
from tests.support.tokenizers import MODEL_FOLDER, story_tokenizer

SCRIPTED = {
    "rounds": 2,
    "chunks": 1,
    "drafted_tokens": 8,
    "accepted_tokens": 5,
    "drafted_by_position": [2, 2, 2, 2],
    "accepted_by_position": [2, 2, 1, 0],
    "bytes_up": 3000,
    "bytes_down": 2000,
    "link_delay_s": 0.03125,
}
SECONDS = {
    "queue": 0.25,
    "link": 0.375,
    "cloud_queue": 0.125,
    "cloud_compute": 0.5,
    "verify": 0.0625,
    "loop": 0.6875,
    "total": 2.0,
}
ASKED = {"include_hat_stats": True, "max_tokens": 3}
PROMPT = "Grandmother Wilhelmina found a purple umbrella"


def holds(whole, part):
    return {name: whole[name] for name in part} == part


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, {"messages": USER}), (COMPLETIONS, {"prompt": "Once"})]
)
async def test_an_answer_says_what_it_took_only_when_asked(path, body):
    async with story_server() as (client, _):
        (_, plain), (_, asked) = [
            await client.post(path, {**body, **more}) for more in ({"max_tokens": 3}, ASKED)
        ]
    assert "hat" not in plain
    assert holds(asked["hat"], SCRIPTED)
    assert holds(asked["hat"]["seconds"], SECONDS)


async def test_the_parts_of_the_time_add_up_to_the_whole():
    async with story_server() as (client, _):
        _, document = await client.post(COMPLETIONS, {"prompt": "Once", **ASKED})
    seconds = document["hat"]["seconds"]
    assert sum(seconds.values()) == pytest.approx(2 * seconds["total"])


async def test_choices_are_summed():
    async with story_server() as (client, _):
        figures = (await client.post(COMPLETIONS, {"prompt": "Once", **ASKED, "n": 3}))[1]["hat"]
    assert figures["rounds"] == 6
    assert figures["accepted_by_position"] == [6, 6, 3, 0]
    assert figures["seconds"]["total"] == 6.0
    assert figures["link_delay_s"] == SCRIPTED["link_delay_s"]


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
async def test_a_stream_says_it_in_its_last_chunk(options):
    async with story_server() as (client, _):
        body = {"messages": USER, "max_tokens": 3, **options}
        plain, asked = await client.chunks(CHAT, body), await client.chunks(CHAT, {**body, **ASKED})
    assert not any("hat" in chunk for chunk in [*plain, *asked[:-1]])
    assert len(asked) == len(plain) + (not options)
    assert asked[-1]["choices"] == []
    assert holds(asked[-1]["hat"], SCRIPTED)
    assert ("usage" in asked[-1]) == bool(options)


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, {"messages": USER}), (COMPLETIONS, {"prompt": "Once", "echo": True})]
)
async def test_a_stream_says_what_its_rounds_decided(path, body):
    drafting = story_generator(tokens_per_round=3, num_drafted=4)
    async with story_server(drafting) as (client, _):
        body = {**body, "include_hat_stats": "rounds", "max_tokens": 9}
        *chunks, last = await client.chunks(path, body)
    assert holds(last["hat"], SCRIPTED)
    assert {bar["lane"] for bar in last["hat"]["timeline"]} == {
        *("device", "uplink", "cloud", "downlink")
    }
    rounds = [chunk["hat"] for chunk in chunks if "hat" in chunk]
    assert [each["rounds"] for each in rounds] == [0, 1, 1]
    assert [each["drafted_tokens"] for each in rounds] == [4, 4, 4]
    assert [each["accepted_tokens"] for each in rounds] == [2, 2, 2]
    for chunk in chunks[:-1]:
        [choice] = chunk["choices"]
        text = choice["delta"]["content"] if path == CHAT else choice["text"]
        assert "".join(token["text"] for token in chunk["hat"]["tokens"]) == text
    origins = [token["origin"] for each in rounds for token in each["tokens"]]
    assert origins == ["prompt"] * (path == COMPLETIONS) + 3 * ["accepted", "accepted", "recovered"]


async def test_a_document_has_no_place_for_rounds_and_has_the_timeline():
    body = {"messages": USER, "max_tokens": 3, "include_hat_stats": "rounds"}
    async with story_server() as (client, _):
        _, document = await client.post(CHAT, body)
    assert holds(document["hat"], SCRIPTED)
    assert document["hat"]["timeline"]


async def test_headers_of_a_document_have_rounds_and_times_in_milliseconds():
    async with (
        story_server() as (client, _),
        client.http.post(client.url + CHAT, json={"messages": USER}) as response,
    ):
        headers = dict(response.headers)
    assert headers["X-Hat-Rounds"] == "2"
    times = dict(re.findall(r"(\w+);dur=([\d.]+)(?:, |$)", headers["Server-Timing"]))
    assert times["cloud_compute"] == "500.000"
    assert times["total"] == "2000.000"


async def test_metrics_hold_vllms_times_and_our_bytes_rounds_and_phases():
    async with story_server() as (client, _):
        await client.post(CHAT, {"messages": USER, "max_tokens": 3})
        async with client.http.get(client.url + "/metrics") as response:
            values = {
                (sample.name, sample.labels.get("phase")): sample.value
                for family in text_string_to_metric_families(await response.text())
                for sample in family.samples
            }
    for name in ("queue", "prefill", "decode", "inference"):
        assert values[f"hat_request_{name}_time_seconds_count", None] == 1
    assert values["hat_request_time_per_output_token_seconds_count", None] == 1
    assert values["hat_rounds_total", None] == 2
    assert values["hat_uplink_bytes_total", None] == 3000
    assert values["hat_downlink_bytes_total", None] == 2000
    assert values["hat_link_connected", None] == 1
    assert values["hat_link_num_connections", None] == 1
    assert values["hat_link_delay_seconds", None] == 0.02
    assert values["hat_link_uplink_bytes_per_second", None] == 1e6
    assert math.isnan(values["hat_link_downlink_bytes_per_second", None])
    for phase in ("queue", "link", "cloud_compute", "verify"):
        assert values["hat_phase_seconds_total", phase] == SECONDS[phase]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return split_for_serving(MODEL_FOLDER, tmp_path_factory.mktemp("figures") / "m1", 1)


async def _real_requests(bundles):
    """The figures of one answer, its token count, and both sides' metrics."""
    async with running_stack(bundles) as stack:
        url = stack.device.url
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="-", max_retries=0) as client:
            answer = await client.completions.create(
                model="stories260k",
                prompt=PROMPT,
                max_tokens=40,
                temperature=0,
                extra_body={"include_hat_stats": True},
            )
            raw = await client.completions.with_raw_response.create(
                model="stories260k", prompt=PROMPT, max_tokens=4
            )
            http = client._client
            pages = [
                (await http.get(f"{address}/metrics")).text
                for address in (url, stack.cloud.metrics_url)
            ]
    return answer, raw, pages


async def test_a_real_request_counts_its_rounds_bytes_and_times(bundles):
    answer, raw, _ = await _real_requests(bundles)
    figures = answer.model_extra["hat"]
    num_tokens = answer.usage.completion_tokens
    assert figures["rounds"] + figures["accepted_tokens"] == num_tokens - 1
    assert len(figures["drafted_by_position"]) == len(figures["accepted_by_position"])
    row_bytes = 64 * 4
    raw_up = figures["bytes_up"] + figures["saved_bytes_up"]
    raw_down = figures["bytes_down"] + figures["saved_bytes_down"]
    assert raw_up > row_bytes * (answer.usage.prompt_tokens + figures["rounds"])
    assert raw_down > row_bytes * figures["rounds"]
    assert figures["link_delay_s"] > 0
    sent_tokens = answer.usage.prompt_tokens - figures["reused_prompt_tokens"]
    assert sum(figures["chunk_tokens"]) == sent_tokens
    assert len(figures["chunk_tokens"]) == figures["chunks"]
    # The first prompt of a link goes up before anything need have come back.
    delay_s = figures["known"]["delay_s"]
    assert delay_s is None or delay_s >= 0
    assert figures["first_token_s"] < figures["seconds"]["total"]
    parts = [seconds for name, seconds in figures["seconds"].items() if name != "total"]
    assert sum(parts) == pytest.approx(figures["seconds"]["total"], abs=1e-4)
    assert int(raw.headers["X-Hat-Rounds"]) <= 4


async def _timed_request(bundles):
    async with running_stack(bundles) as stack:
        url = stack.device.url + "/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="-", max_retries=0) as client:
            return await client.completions.create(
                model="stories260k",
                prompt=PROMPT,
                max_tokens=12,
                temperature=0,
                extra_body={"include_hat_stats": "timeline", "ignore_eos": True},
            )


async def test_a_timeline_says_when_each_lane_was_busy(bundles):
    answer = await _timed_request(bundles)
    figures = answer.model_extra["hat"]
    bars = figures["timeline"]
    cloud = [bar for bar in bars if bar["lane"] == "cloud"]
    assert len(cloud) == figures["chunks"] + figures["rounds"]
    prefill = [bar["num_tokens"] for bar in cloud if bar["what"] == "prefill"]
    assert sum(prefill) == answer.usage.prompt_tokens
    assert {bar["lane"] for bar in bars} == {"device", "uplink", "cloud", "downlink"}
    assert all(0 <= bar["start_s"] <= bar["end_s"] for bar in bars)
    assert max(bar["end_s"] for bar in bars) <= figures["seconds"]["total"] + 1e-3


async def test_no_word_of_a_prompt_or_an_answer_is_in_logs_or_metrics(bundles, caplog):
    with caplog.at_level(logging.DEBUG):
        answer, _, pages = await _real_requests(bundles)
    words = {word for word in f"{PROMPT} {answer.choices[0].text}".split() if len(word) > 5}
    assert "Wilhelmina" in words
    written = [caplog.text, *pages]
    assert all(len(page) > 200 for page in pages)
    assert len(caplog.records) > 4
    ids = story_tokenizer().encode(PROMPT)
    secrets = [*words, str(ids)[1:-1], *[str(ids[i : i + 3])[1:-1] for i in range(len(ids) - 2)]]
    assert [(word, page[:40]) for page in written for word in secrets if word in page] == []


async def test_a_wrong_value_of_the_field_is_named():
    async with story_server() as (client, _):
        status, document = await client.post(
            CHAT, msgspec.json.encode({"messages": USER, "include_hat_stats": 3})
        )
    assert (status, document["error"]["param"]) == (400, "include_hat_stats")

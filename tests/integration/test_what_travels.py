"""What a listener between device and cloud, or the cloud itself, gets to see."""

import asyncio
import json
import re
import struct
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from tests.support.frame_relay import FrameRelay, frame_relay
from tests.support.frame_search import assert_no_ids, assert_no_words, long_words
from tests.support.reference import STORIES
from tests.support.stack import cloud_config, connected_device, serve_cloud, split_for_serving
from wire.codec import decode
from wire.messages import Close, Hello, Open, Reply, States, Trace, Want

TURNS = ("Once upon a time, there was a little girl named Lily.", "Then she found a big red ball.")

NAME = "the-name-of-a-client"

TOOL = {
    "type": "function",
    "function": {
        "name": "look_up_weather",
        "parameters": {
            "type": "object",
            "properties": {"unit_of_temperature": {"const": "fahrenheit"}},
            "required": ["unit_of_temperature"],
            "additionalProperties": False,
        },
    },
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "diagnosis_of_the_patient": {"enum": ["influenza", "pneumonia"]},
        "medication_and_its_dose": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["diagnosis_of_the_patient", "medication_and_its_dose"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "anamnesis", "schema": SCHEMA}}
BIAS = {"1": 5}
"""To the end."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_for_serving(STORIES, tmp_path_factory.mktemp("travel") / "m1", 1)


async def _converse(bundles: Path) -> tuple[FrameRelay, list[str]]:
    """A conversation of two turns through a relay; the frames and all texts."""
    texts: list[str] = []
    async with (
        serve_cloud(cloud_config(bundles)) as cloud,
        frame_relay(cloud.url) as relay,
        connected_device(bundles, relay.url, {"secret": None}) as device,
        aiohttp.ClientSession() as client,
    ):
        for turn in TURNS:
            texts.append(turn)
            messages = [{"role": "user", "content": text} for text in texts]
            body = {"messages": messages, "max_tokens": 40, "temperature": 0.8, "seed": 3}
            headers = {"X-Request-ID": NAME}
            url = f"{device.url}/v1/chat/completions"
            async with client.post(url, json=body, headers=headers) as response:
                answer = await response.json()
            texts.append(answer["choices"][0]["message"]["content"])
    return relay, texts


@pytest.fixture(scope="module")
def conversation(bundles: Path) -> tuple[FrameRelay, list[str]]:
    return asyncio.run(_converse(bundles))


def test_every_frame_is_a_message_of_the_protocol(
    conversation: tuple[FrameRelay, list[str]],
) -> None:
    relay, _ = conversation
    kinds = {type(decode(frame)) for frame in relay.up}
    assert {Hello, Open, States, Trace} <= kinds <= {Hello, Open, States, Trace, Close}
    assert Reply in {type(decode(frame)) for frame in relay.down}


def test_each_request_has_a_trace_of_its_own_and_no_word_of_its_client(
    conversation: tuple[FrameRelay, list[str]],
) -> None:
    relay, _ = conversation
    traces = [m.trace_id for m in map(decode, relay.up) if isinstance(m, Trace)]
    assert len({*traces}) == len(TURNS)
    assert not any(NAME.encode() in frame for frame in relay.up)


def test_no_frame_holds_a_word_of_the_text(conversation: tuple[FrameRelay, list[str]]) -> None:
    relay, texts = conversation
    assert len(long_words(texts)) > 10
    assert_no_words(relay, texts)


def test_no_frame_holds_token_ids_in_a_row(conversation: tuple[FrameRelay, list[str]]) -> None:
    relay, texts = conversation
    tokenizer = Tokenizer.from_file(str(STORIES / "tokenizer.json"))
    for text in texts:
        assert_no_ids(relay, tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.fixture(scope="module")
def held(bundles: Path) -> tuple[FrameRelay, list[dict[str, Any]]]:
    return asyncio.run(_hold(bundles))


async def _hold(bundles: Path) -> tuple[FrameRelay, list[dict[str, Any]]]:
    """A call of a tool, its result, and an answer in a form, through a relay."""
    answers: list[dict[str, Any]] = []
    async with (
        serve_cloud(cloud_config(bundles)) as cloud,
        frame_relay(cloud.url) as relay,
        connected_device(bundles, relay.url, {"secret": None, "drafter": "none"}) as device,
        aiohttp.ClientSession() as client,
    ):
        messages: list[dict[str, Any]] = [{"role": "user", "content": "Hi."}]
        asked = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
        for more in (asked, {"response_format": FORM}):
            body = {"messages": messages, "max_tokens": 100, "seed": 3, "logit_bias": BIAS, **more}
            async with client.post(f"{device.url}/v1/chat/completions", json=body) as response:
                answers.append(await response.json())
            assert response.status == 200, answers
            message = answers[-1]["choices"][0]["message"]
            messages.append({key: value for key, value in message.items() if value is not None})
            for call in message.get("tool_calls") or ():
                result = {"role": "tool", "tool_call_id": call["id"], "content": "cloudless"}
                messages.append(result)
    return relay, answers


def test_no_frame_holds_a_word_of_a_tool_or_a_schema(
    held: tuple[FrameRelay, list[dict[str, Any]]],
) -> None:
    relay, answers = held
    [first, second] = [answer["choices"][0]["message"] for answer in answers]
    [call] = first["tool_calls"]
    assert call["function"]["name"] == TOOL["function"]["name"]
    assert json.loads(call["function"]["arguments"])["unit_of_temperature"] == "fahrenheit"
    form = json.loads(second["content"])
    assert set(form) == set(SCHEMA["properties"])
    told = [json.dumps(each) for each in (TOOL, FORM, first, form)]
    assert_no_words(relay, [re.sub(r"\W+", " ", text) for text in told] + told)
    tokenizer = Tokenizer.from_file(str(STORIES / "tokenizer.json"))
    for text in told:
        assert_no_ids(relay, tokenizer.encode(text, add_special_tokens=False).ids)


def test_a_long_run_of_what_is_forced_goes_up_in_one_frame(
    held: tuple[FrameRelay, list[dict[str, Any]]],
) -> None:
    relay, answers = held
    frames = [decode(frame) for frame in relay.up]
    rows = [each.num_rows for each in frames if isinstance(each, States) and each.want is Want.ALL]
    num_tokens = sum(answer["usage"]["completion_tokens"] for answer in answers)
    # The row that goes up with a run is of the token before it.
    assert sum(each >= 9 for each in rows) >= 3, rows
    assert len(rows) < num_tokens / 10


def test_the_search_would_find_ids_and_words_if_they_travelled(
    conversation: tuple[FrameRelay, list[str]],
) -> None:
    """The same search over frames with a planted leak comes out the other way."""
    relay, texts = conversation
    ids = Tokenizer.from_file(str(STORIES / "tokenizer.json")).encode(texts[1]).ids[1:4]
    leaking = FrameRelay("")
    leaking.up = [*relay.up, struct.pack("<3I", *ids), texts[1].encode()]
    with pytest.raises(AssertionError):
        test_no_frame_holds_a_word_of_the_text((leaking, texts))
    with pytest.raises(AssertionError):
        test_no_frame_holds_token_ids_in_a_row((leaking, texts))


def test_the_cloud_bundle_holds_no_embedding_no_head_and_no_tokenizer(bundles: Path) -> None:
    names = {path.name for path in (bundles / "cloud").iterdir()}
    assert names == {"hat.json", "config.json", "coding.json", "model.safetensors"}
    with safe_open(bundles / "cloud" / "model.safetensors", "np") as tensors:
        tensor_names = list(tensors.keys())
    assert all(name.startswith("model.layers.") for name in tensor_names)
    assert len({name.split(".")[2] for name in tensor_names}) == 4

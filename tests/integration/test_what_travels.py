"""What a listener between device and cloud, or the cloud itself, gets to see."""

import asyncio
import struct
from pathlib import Path

import aiohttp
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from tests.support.frame_relay import FrameRelay, frame_relay
from tests.support.reference import STORIES
from tests.support.stack import cloud_config, connected_device, serve_cloud, split_for_serving
from wire.codec import decode
from wire.messages import Close, Hello, Open, Reply, States

TURNS = ("Once upon a time, there was a little girl named Lily.", "Then she found a big red ball.")
ID_FORMATS = ("<H", ">H", "<I", ">I", "<Q", ">Q", "<B")
RUN = 3
"""So many token ids in a row are no accident, in any of the formats."""


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
            async with client.post(f"{device.url}/v1/chat/completions", json=body) as response:
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
    assert {Hello, Open, States} <= kinds <= {Hello, Open, States, Close}
    assert Reply in {type(decode(frame)) for frame in relay.down}


def test_no_frame_holds_a_word_of_the_text(conversation: tuple[FrameRelay, list[str]]) -> None:
    relay, texts = conversation
    seen = b"\0".join([*relay.up, *relay.down])
    words = {word.strip(".,!?\"'") for text in texts for word in text.split()}
    long_words = {word for word in words if len(word) >= 4}
    assert len(long_words) > 10
    for word in long_words:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            assert word.encode(encoding) not in seen, word


def test_no_frame_holds_token_ids_in_a_row(conversation: tuple[FrameRelay, list[str]]) -> None:
    relay, texts = conversation
    tokenizer = Tokenizer.from_file(str(STORIES / "tokenizer.json"))
    seen = b"\0".join([*relay.up, *relay.down])
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        for start in range(len(ids) - RUN + 1):
            run = ids[start : start + RUN]
            for format_ in ID_FORMATS:
                if format_ == "<B" and max(run) > 255:
                    continue
                packed = b"".join(struct.pack(format_, token) for token in run)
                # Three zero-padded small numbers are too common among floats to mean anything.
                if len(set(packed)) > RUN:
                    assert packed not in seen, (format_, run)


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

"""What an answer says beside its text, where that is wanted: prompts scored, ids, marks, stops."""

from typing import Any

import pytest

from tests.support.api_server import (
    CHAT,
    COMPLETIONS,
    EOS,
    STORY,
    USER,
    encoded,
    post,
    story_server,
)

STORY_IDS = [*encoded(STORY), EOS]
PROMPT = "Once upon a time"
PROMPT_IDS = [1, *encoded(PROMPT)]


async def choice(path: str = COMPLETIONS, **fields: Any) -> Any:
    """The one choice of an answer."""
    prompt = {"messages": USER} if path == CHAT else {"prompt": PROMPT}
    status, document = await post(path, {**prompt, "max_tokens": 99, **fields})
    assert status == 200, document
    [one] = document["choices"]
    return one


async def test_an_echo_comes_with_the_log_probabilities_of_the_prompt() -> None:
    logprobs = (await choice(echo=True, logprobs=1))["logprobs"]
    num_prompt = len(PROMPT_IDS)
    assert logprobs["tokens"][:num_prompt] == ["<s>", " Once", " upon", " a", " time"]
    assert logprobs["token_logprobs"][:num_prompt] == [None, -1, -2, -3, -4]
    assert logprobs["top_logprobs"][:2] == [None, {"<unk>": 0, " Once": -1}]
    assert logprobs["text_offset"][: num_prompt + 1] == [0, 0, 4, 9, 11, 16]
    # Programs that score texts count on an entry for each token, an end of text included.
    assert logprobs["tokens"][-1] == "</s>"
    assert [len(each) for each in logprobs.values()] == 4 * [num_prompt + len(STORY_IDS)]


async def test_no_token_at_all_asks_about_the_prompt_alone() -> None:
    status, document = await post(
        COMPLETIONS, {"prompt": [PROMPT, "Once"], "echo": True, "logprobs": 0, "max_tokens": 0}
    )
    first, second = document["choices"]
    assert (status, first["text"], second["text"]) == (200, PROMPT, "Once")
    assert first["logprobs"]["token_logprobs"] == [None, -1, -2, -3, -4]
    assert first["finish_reason"] == "length"
    assert document["usage"]["completion_tokens"] == 0
    assert (await choice(echo=True, max_tokens=0))["logprobs"] is None


async def test_a_stream_begins_with_the_scored_prompt() -> None:
    async with story_server() as (client, _):
        body = {"prompt": PROMPT, "echo": True, "logprobs": 0, "max_tokens": 2}
        first, *_ = await client.chunks(COMPLETIONS, body)
    assert first["choices"][0]["text"].startswith(PROMPT)
    assert len(first["choices"][0]["logprobs"]["tokens"]) == len(PROMPT_IDS) + 1


async def test_prompt_logprobs_come_in_vllms_shape() -> None:
    [none, first, *_] = (await choice(prompt_logprobs=1))["prompt_logprobs"]
    assert none is None
    assert first == {
        "403": {"logprob": -1, "rank": 1, "decoded_token": " Once"},
        "0": {"logprob": 0, "rank": 1, "decoded_token": "<unk>"},
    }
    _, document = await post(CHAT, {"messages": USER, "prompt_logprobs": 0})
    assert [each and len(each) for each in document["prompt_logprobs"]] == [None, 1, 1, 1, 1, 1]
    assert "prompt_logprobs" not in document["choices"][0]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_ids_of_prompt_and_answer_are_told_whole_and_in_streams(path: str) -> None:
    prompt = {"messages": USER} if path == CHAT else {"prompt": PROMPT}
    body = {**prompt, "return_token_ids": True, "max_tokens": 99}
    async with story_server() as (client, generator):
        _, document = await client.post(path, body)
        chunks = await client.chunks(path, body)
    [whole] = document["choices"]
    assert whole["token_ids"] == STORY_IDS
    told = [id_ for chunk in chunks for id_ in chunk["choices"][0]["token_ids"]]
    assert told == STORY_IDS
    holders = (document, chunks[0]) if path == CHAT else (whole, chunks[0]["choices"][0])
    for holder in holders:
        assert holder["prompt_token_ids"] == list(generator.requests[0].prompt_ids)
    assert "token_ids" not in (await choice(path))


async def test_ids_go_on_to_the_end_of_a_text_that_is_cut() -> None:
    cut = await choice(stop="dog", return_token_ids=True)
    assert (cut["text"], cut["token_ids"]) == (" there was a little ", STORY_IDS[:6])


async def test_a_stop_is_part_of_the_text_if_wanted() -> None:
    kept = {"include_stop_str_in_output": True}
    assert (await choice(stop=["dog"]))["text"] == " there was a little "
    assert (await choice(stop=["dog"], **kept))["text"] == " there was a little dog"
    assert (await choice(stop=["do"], **kept))["text"] == " there was a little do"
    [full_stop] = encoded(".")[-1:]
    assert (await choice(stop_token_ids=[full_stop]))["text"] == " there was a little dog"
    assert (await choice(stop_token_ids=[full_stop], **kept))["text"] == " there was a little dog."
    ended = await choice(**kept, logprobs=0)
    assert (ended["text"], ended["logprobs"]["tokens"][-1]) == (STORY, "</s>")


async def test_control_tokens_are_text_if_wanted() -> None:
    plain = await choice(ignore_eos=True, max_tokens=12)
    shown = await choice(ignore_eos=True, max_tokens=12, skip_special_tokens=False)
    assert plain["text"] == STORY + " there"
    assert shown["text"] == STORY + "</s> there"
    kept = {"include_stop_str_in_output": True, "skip_special_tokens": False}
    assert (await choice(**kept))["text"] == STORY + "</s>"
    assert (await choice(CHAT, **kept))["message"]["content"] == STORY + "</s>"

"""Long bodies are looked through beside the event loop, and only as far as they are read."""

import gc
import threading

import pytest

from device_runtime.api.errors import ApiError
from device_runtime.api.job.prompts import split_prompts
from device_runtime.api.request import body as reading
from tests.support.api_server import CHAT, COMPLETIONS, USER, story_server
from tests.support.tokenizers import story_tokenizer

LISTS = [[]] * 250_000


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (COMPLETIONS, {"prompt": LISTS}, 400),
        (COMPLETIONS, {"prompt": "a", "unknown": LISTS}, 200),
        (CHAT, {"messages": USER, "tools": LISTS}, 400),
        (CHAT, {"messages": USER * 20_000}, 400),
        (CHAT, {"messages": USER, "chat_template_kwargs": {"a": LISTS}}, 200),
        ("/tokenize", {"prompt": "a " * 20_000}, 400),
        ("/detokenize", {"tokens": [300] * 100_000}, 200),
    ],
)
async def test_a_long_body_is_decoded_in_a_thread(monkeypatch, path, body, status):
    threads = []

    def decode(body, kind):
        threads.append(threading.current_thread())
        return decode_request(body, kind)

    decode_request = reading.decode_request
    monkeypatch.setattr(reading, "decode_request", decode)

    async with story_server() as (client, _):
        assert (await client.post(path, body))[0] == status
        assert threads.pop() is not threading.main_thread()
        await client.post(path, {})
        assert threads.pop() is threading.main_thread()
        assert gc.isenabled()


class CountedList(list):
    """A list that counts how many of its items are looked at."""

    num_seen = 0

    def __iter__(self):
        for item in super().__iter__():
            self.num_seen += 1
            yield item


@pytest.mark.parametrize("item", [[], "a"])
def test_too_many_prompts_are_refused_without_a_look_at_them(item):
    prompts = CountedList([item] * 250_000)
    with pytest.raises(ApiError, match="at most 64"):
        split_prompts(prompts)
    assert prompts.num_seen == 0


def test_mixed_prompts_are_refused_by_name():
    for prompts in ([1, "a"], [1, []], ["a", []], ["a", 1], [[], 1]):
        with pytest.raises(ApiError, match="only texts"):
            split_prompts(prompts)
    assert split_prompts([1, 2]) == [[1, 2]]
    assert split_prompts([[1], [2]]) == [[1], [2]]
    assert split_prompts(["a"]) == ["a"]


async def test_the_text_of_many_tokens_is_found_beside_the_event_loop(monkeypatch):
    tokenizer = story_tokenizer()
    text_of = {ids: tokenizer.token_bytes(ids).decode() for ids in (300, 301)}.get
    threads = []

    class Recording:
        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def decode(self, ids, skip_special_tokens=True):
            threads.append((len(ids), threading.current_thread()))
            return tokenizer.decode(ids, skip_special_tokens)

        def token_bytes(self, token_id):
            threads.append((1, threading.current_thread()))
            return tokenizer.token_bytes(token_id)

    async with story_server(tokenizer=Recording()) as (client, _):
        ids = [300, 301] * 5000
        _, document = await client.post("/detokenize", {"tokens": ids})
        assert document["prompt"] == "".join(map(text_of, ids)).removeprefix(" ")
        await client.post(COMPLETIONS, {"prompt": ids, "echo": True})
        await client.post("/tokenize", {"prompt": "a", "return_token_strs": True})
        assert len(threads) >= 3
        main = threading.main_thread()
        assert [length for length, thread in threads if thread is main and length > 100] == []

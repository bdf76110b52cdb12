"""Texts and templates beside streams: bounded, in threads of their own, and never in the way."""

import asyncio
import threading
import time

import pytest

from device_runtime.api.text_work import TextWork
from device_runtime.generation.request import OverloadedError
from device_runtime.text.chat_template import ChatTemplate
from tests.support.api_server import CHAT, COMPLETIONS, USER, post, story_server
from tests.support.tokenizers import story_tokenizer

FAR_TOO_LONG = "a " * 450_000
PARTS_ONLY = "{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}"


class CountingTokenizer:
    """The story tokenizer, which says in which threads it worked and on how many characters."""

    def __init__(self):
        self.num_characters = 0
        self.threads = set()

    def __getattr__(self, name):
        return getattr(story_tokenizer(), name)

    def encode(self, text, add_special_tokens=True):
        self.num_characters += len(text)
        self.threads.add(threading.current_thread())
        return story_tokenizer().encode(text, add_special_tokens)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (COMPLETIONS, {"prompt": FAR_TOO_LONG}, "prompt"),
        (COMPLETIONS, {"prompt": ["Once", FAR_TOO_LONG]}, "prompt"),
        (CHAT, {"messages": [{"role": "user", "content": FAR_TOO_LONG}]}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": "a " * 225}] * 2000}, "messages"),
        ("/tokenize", {"prompt": FAR_TOO_LONG}, "prompt"),
    ],
)
async def test_a_text_far_beyond_the_context_is_refused_before_it_is_tokenised(path, body, param):
    tokenizer = CountingTokenizer()

    async with story_server(tokenizer=tokenizer) as (client, _):
        status, answer = await client.post(path, body)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert answer["error"]["param"] == param
    assert "512 tokens" in answer["error"]["message"]
    assert tokenizer.num_characters < 20_000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"prompt": "Once"}),
        (CHAT, {"messages": USER}),
        ("/tokenize", {"prompt": "Once"}),
        ("/tokenize", {"messages": USER}),
    ],
)
async def test_nothing_is_tokenised_on_the_event_loop(path, body):
    tokenizer = CountingTokenizer()

    async with story_server(tokenizer=tokenizer) as (client, _):
        status, _ = await client.post(path, body)
        assert status == 200
        assert threading.current_thread() not in tokenizer.threads
    assert tokenizer.threads


async def test_tokens_beyond_the_context_can_still_be_counted():
    status, answer = await post("/tokenize", {"prompt": "Once upon a time, " * 120})
    assert status == 200
    assert answer["count"] > answer["max_model_len"]


async def test_long_texts_wait_for_each_other_and_short_ones_for_none():
    work = TextWork(most_long=2)
    gate = threading.Event()
    long = [asyncio.create_task(work.tokenize(10**6, gate.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await work.tokenize(10**6, gate.wait)
    assert await work.tokenize(10, lambda: 7) == 7
    assert await work.render(lambda: 8) == 8
    gate.set()
    await asyncio.gather(*long)
    assert await work.tokenize(10**6, lambda: 9) == 9
    work.close()


async def test_work_whose_client_has_left_is_not_begun():
    work = TextWork()
    gate, done = threading.Event(), []
    first = asyncio.create_task(work.tokenize(10**6, gate.wait))
    second = asyncio.create_task(work.tokenize(10**6, lambda: done.append(1)))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    gate.set()
    await first
    assert await work.tokenize(10**6, lambda: 3) == 3
    assert done == []
    work.close()


async def test_too_many_waiting_texts_are_a_429():
    async with story_server(text_work=TextWork(most_long=0)) as (client, _):
        status, answer = await client.post("/tokenize", {"prompt": "x" * 20_000})
        assert (status, answer["error"]["code"]) == (429, "overloaded")


async def test_an_endless_template_holds_up_no_stream_and_ends():
    source = (
        "{{ messages[0].content }}{% if messages[0].content == 'hang' %}"
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
    )
    template = ChatTemplate(source, {})

    async with story_server(template=template) as (client, _):
        body = {"messages": [{"role": "user", "content": "hang"}]}
        hanging = asyncio.create_task(client.post(CHAT, body))
        longest_s = 0.0
        while not hanging.done():
            begun_s = time.monotonic()
            await asyncio.sleep(0.01)
            longest_s = max(longest_s, time.monotonic() - begun_s)
        status, answer = await hanging
    assert (status, answer["error"]["code"]) == (400, "chat_template_failed")
    # It ran for a second of processor time; nobody here waited for that.
    assert longest_s < 0.9
    template.close()


@pytest.mark.parametrize("content", ["words", [{"type": "text", "text": "words"}]])
async def test_words_reach_a_template_that_reads_parts_only(content):
    template = ChatTemplate(PARTS_ONLY, {})

    async with story_server(template=template) as (client, _):
        body = {"messages": [{"role": "user", "content": content}], "return_token_strs": True}
        status, answer = await client.post("/tokenize", body)
    assert status == 200
    assert "".join(answer["token_strs"]).strip() == "words"
    template.close()


async def test_a_template_that_leaves_the_user_out_is_a_400():
    template = ChatTemplate("nothing of it", {})

    async with story_server(template=template) as (client, _):
        status, answer = await client.post(CHAT, {"messages": USER})
    assert (status, answer["error"]["code"]) == (400, "chat_template_failed")
    assert "leaves out what the user says" in answer["error"]["message"]
    template.close()

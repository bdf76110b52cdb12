"""What an answer says of reused tokens is what did not go up, over real sockets, in every form."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from device_runtime.generation.request import GenerationRequest
from tests.support.broken_link import BrokenLink, broken_link
from tests.support.event_loop import until
from tests.support.reference import story_prompts
from tests.support.stack import (
    GREEDY,
    cloud_config,
    connected_device,
    generate_with_stats,
    serve_cloud,
    split_for_serving,
)
from tests.support.tokenizers import MODEL_FOLDER, story_tokenizer

FIELDS = {"model": "stories260k", "temperature": 0, "max_tokens": 12}
ASKED = {"include_hat_stats": True, "ignore_eos": True}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return split_for_serving(MODEL_FOLDER, tmp_path_factory.mktemp("cached") / "out", 1)


@dataclass
class Pair:
    """A device behind a link that can be cut."""

    device: object
    link: BrokenLink
    client: openai.AsyncOpenAI

    async def cut(self):
        """Lose the socket, and wait for the next one."""
        num_connections = self.device.link.num_connections
        self.link.reset()
        await until(lambda: self.device.link.num_connections > num_connections)

    async def metric(self, name):
        page = (await self.client._client.get(f"{self.device.url}/metrics")).text
        families = text_string_to_metric_families(page)
        return sum(s.value for family in families for s in family.samples if s.name == name)


@asynccontextmanager
async def pair(bundles, **settings):
    async with (
        serve_cloud(cloud_config(bundles)) as cloud,
        broken_link(int(cloud.url.rsplit(":", 1)[1])) as link,
        connected_device(bundles, link.url, settings) as device,
        openai.AsyncOpenAI(base_url=device.url + "/v1", api_key="-", max_retries=0) as client,
    ):
        yield Pair(device, link, client)


def long_text():
    """About 150 tokens."""
    tokens = [token for prompt in story_prompts(40)[:5] for token in prompt[1:]]
    return story_tokenizer().decode(tokens)


async def completed(client, prompt, **fields):
    """Tokens said to be cached, tokens that went up, and the text."""
    answer = await client.completions.create(prompt=prompt, extra_body=ASKED, **FIELDS, **fields)
    cached = answer.usage.prompt_tokens_details.cached_tokens
    figures = answer.model_extra["hat"]
    assert figures["reused_prompt_tokens"] >= cached
    return cached, sum(figures["chunk_tokens"]), answer


async def streamed(client, messages):
    """The same of a chat's stream."""
    stream = await client.chat.completions.create(
        messages=messages,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=ASKED,
        **FIELDS,
    )
    events = [event async for event in stream]
    usage, figures = events[-1].usage, events[-1].model_extra["hat"]
    cached = usage.prompt_tokens_details.cached_tokens
    assert figures["reused_prompt_tokens"] == cached
    assert sum(figures["chunk_tokens"]) == usage.prompt_tokens - cached
    text = "".join(choice.delta.content or "" for e in events for choice in e.choices)
    return cached, usage.prompt_tokens, text


async def test_every_form_of_answer_counts_what_was_kept_after_a_cut_too(bundles):
    text = long_text()
    async with pair(bundles) as it:
        cached, num_up, first = await completed(it.client, text)
        assert (cached, num_up) == (0, first.usage.prompt_tokens)
        total_prompt, total_cached = first.usage.prompt_tokens, 0
        for number in range(3):
            text += first.choices[0].text + " And then"
            if number > 0:
                await it.cut()
            cached, num_up, first = await completed(it.client, text)
            assert cached + num_up == first.usage.prompt_tokens
            assert num_up < 20
            total_prompt += first.usage.prompt_tokens
            total_cached += cached
        assert await it.metric("hat_prefix_cache_queries_total") == total_prompt
        assert await it.metric("hat_prefix_cache_hits_total") == total_cached


async def test_streams_of_a_conversation_count_it_too(bundles):
    messages = [{"role": "user", "content": "Once upon a time there was a big red dog." * 6}]
    async with pair(bundles) as it:
        cached, _, text = await streamed(it.client, messages)
        assert cached == 0
        for _ in range(2):
            messages += [
                {"role": "assistant", "content": text},
                {"role": "user", "content": "What then?"},
            ]
            await it.cut()
            cached, num_prompt, text = await streamed(it.client, messages)
            assert num_prompt - 30 < cached < num_prompt


async def test_of_choices_that_share_a_prompt_the_first_counts(bundles):
    text = long_text()
    async with pair(bundles) as it:
        cached, num_up, answer = await completed(it.client, text, n=3, seed=1)
        num_prompt = answer.usage.prompt_tokens
        assert (cached, num_up) == (0, num_prompt + 2)
        figures = answer.model_extra["hat"]
        assert figures["reused_prompt_tokens"] == 2 * (num_prompt - 1)


async def test_two_requests_at_once_send_a_long_beginning_once_and_say_what_each_says_alone(
    bundles,
):
    beginning = [token for prompt in story_prompts(40) for token in prompt][:300]
    requests = [
        GenerationRequest([*beginning, *ending], 24, GREEDY)
        for ending in ([5, 6, 7], [300, 301], [8, 9, 10, 11])
    ]
    async with pair(bundles, kept_sessions=0) as it:
        alone = [await generate_with_stats(it.device.runtime, each) for each in requests]
    async with pair(bundles) as it:
        calls = (generate_with_stats(it.device.runtime, each) for each in requests)
        together = await asyncio.gather(*calls)
    assert [ids for ids, _ in together] == [ids for ids, _ in alone]
    assert [stats.num_reused_tokens for _, stats in together] == [0, 300, 300]
    sent = [sum(chunk.num_tokens for chunk in stats.chunks) for _, stats in together]
    assert sent == [303, 2, 4]

"""Requests through the endpoint, the device, a socket and the cloud, all of them real."""

import asyncio
from contextlib import asynccontextmanager

import openai
import pytest

from tests.support.event_loop import until
from tests.support.stack import gather_bounded, running_stack, split_for_serving
from tests.support.tokenizers import MODEL_FOLDER

PROMPTS = [f"Once upon a time, there was a {kind}" for kind in ("dog", "cat", "girl", "big tree")]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return split_for_serving(MODEL_FOLDER, tmp_path_factory.mktemp("bundles") / "out", 1)


@asynccontextmanager
async def openai_client(bundles):
    async with (
        running_stack(bundles) as stack,
        openai.AsyncOpenAI(base_url=stack.device.url + "/v1", api_key="-", max_retries=0) as client,
    ):
        yield stack, client


async def completion(client, prompt, **fields):
    answer = await client.completions.create(model="stories260k", prompt=prompt, **fields)
    return answer.choices[0].text


async def streamed(client, prompt, **fields):
    messages = [{"role": "user", "content": prompt}]
    stream = await client.chat.completions.create(
        model="stories260k", messages=messages, stream=True, **fields
    )
    return "".join([chunk.choices[0].delta.content async for chunk in stream])


def test_a_story_is_continued_the_same_in_chat_and_completion_and_stream(bundles):
    async def test():
        async with openai_client(bundles) as (_, client):
            fields = {"temperature": 0, "max_tokens": 40}
            text = await completion(client, PROMPTS[0], **fields)
            assert await streamed(client, PROMPTS[0], **fields) == text
            stopped = await completion(client, PROMPTS[0], **fields, stop=["."])
        assert text.startswith(" named Max")
        assert stopped == text.partition(".")[0]

    asyncio.run(test())


def test_sixteen_streams_at_once_say_what_each_says_alone(bundles):
    async def test():
        async with openai_client(bundles) as (_, client):
            calls = [
                lambda prompt=prompt, seed=seed: streamed(
                    client, prompt, seed=seed, temperature=seed % 2, max_tokens=24
                )
                for seed in range(4)
                for prompt in PROMPTS
            ]
            together = await gather_bounded(calls, 16)
            alone = await gather_bounded(calls, 1)
        assert together == alone
        assert len(set(together)) > len(PROMPTS)

    asyncio.run(test())


def test_choices_of_one_request_are_reproducible_and_differ(bundles):
    async def test():
        async with openai_client(bundles) as (_, client):
            fields = {"model": "stories260k", "prompt": PROMPTS[0], "max_tokens": 16}
            first, second = [
                await client.completions.create(**fields, seed=-5, n=3, logprobs=2)
                for _ in range(2)
            ]
            one = await completion(client, PROMPTS[0], seed=-5, max_tokens=16)
        texts = [choice.text for choice in first.choices]
        assert texts == [choice.text for choice in second.choices]
        assert len(set(texts)) == 3
        assert texts[0] == one
        for choice in first.choices:
            assert "".join(choice.logprobs.tokens) == choice.text

    asyncio.run(test())


def test_closing_a_stream_early_ends_its_generation(bundles):
    async def test():
        async with openai_client(bundles) as (stack, client):
            stream = await client.completions.create(
                model="stories260k", prompt=PROMPTS[0], stream=True, max_tokens=400
            )
            await anext(stream)
            assert stack.runtime.figures().num_running == 1
            await stream.close()
            await until(lambda: stack.runtime.figures().num_running == 0)
            assert await completion(client, PROMPTS[0], max_tokens=4)

    asyncio.run(test())

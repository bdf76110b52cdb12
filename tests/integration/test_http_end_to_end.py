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
async def openai_client(bundles, **settings):
    async with (
        running_stack(bundles, settings) as stack,
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
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def test_a_story_is_continued_the_same_in_chat_and_completion_and_stream(bundles):
    async with openai_client(bundles) as (_, client):
        fields = {"temperature": 0, "max_tokens": 40}
        text = await completion(client, PROMPTS[0], **fields)
        assert await streamed(client, PROMPTS[0], **fields) == text
        stopped = await completion(client, PROMPTS[0], **fields, stop=["."])
    assert text.startswith(" named Max")
    assert stopped == text.partition(".")[0]


async def test_sixteen_streams_at_once_say_what_each_says_alone(bundles):
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


async def test_choices_of_one_request_are_reproducible_and_differ(bundles):
    async with openai_client(bundles) as (_, client):
        fields = {"model": "stories260k", "prompt": PROMPTS[0], "max_tokens": 16}
        first, second = [
            await client.completions.create(**fields, seed=-5, n=3, logprobs=2) for _ in range(2)
        ]
        one = await completion(client, PROMPTS[0], seed=-5, max_tokens=16)
    texts = [choice.text for choice in first.choices]
    assert texts == [choice.text for choice in second.choices]
    assert len(set(texts)) == 3
    assert texts[0] == one
    for choice in first.choices:
        assert "".join(choice.logprobs.tokens) == choice.text


async def test_closing_a_stream_early_ends_its_generation(bundles):
    async with openai_client(bundles) as (stack, client):
        stream = await client.completions.create(
            model="stories260k", prompt=PROMPTS[0], stream=True, max_tokens=400
        )
        await anext(stream)
        assert stack.runtime.admission.num_running == 1
        await stream.close()
        await until(lambda: stack.runtime.admission.num_running == 0)
        assert await completion(client, PROMPTS[0], max_tokens=4)


async def test_more_choices_than_the_queue_holds_come_in_turn(bundles):
    fields = {"model": "stories260k", "prompt": PROMPTS[0], "max_tokens": 3, "seed": 5, "n": 128}

    async with openai_client(bundles, max_num_seqs=2, max_queue=1) as (stack, client):
        answer = await client.completions.create(**fields)
        stream = await client.completions.create(**fields, stream=True)
        streamed = dict.fromkeys(range(128), "")
        most_waiting = 0
        async for chunk in stream:
            [choice] = chunk.choices
            streamed[choice.index] += choice.text
            most_waiting = max(most_waiting, stack.runtime.admission.num_waiting)
        alone = await completion(client, PROMPTS[0], max_tokens=3, seed=5)
    assert [choice.text for choice in answer.choices] == list(streamed.values())
    assert answer.choices[0].text == alone
    assert answer.usage.completion_tokens <= 3 * 128
    assert most_waiting <= 2


async def test_a_full_queue_refuses_a_request_whatever_its_choices(bundles):
    settings = {"max_num_seqs": 1, "max_queue": 1}
    async with openai_client(bundles, **settings) as (stack, client):
        others = [
            asyncio.create_task(completion(client, prompt, max_tokens=300))
            for prompt in PROMPTS[:2]
        ]
        await until(lambda: stack.runtime.admission.num_waiting == 1)
        with pytest.raises(openai.RateLimitError):
            await completion(client, PROMPTS[2], n=3, max_tokens=4)
        assert stack.runtime.admission.num_waiting <= 1
        for other in others:
            other.cancel()
        await until(lambda: stack.runtime.admission.num_running == 0)


async def test_usage_says_how_much_of_a_prompt_was_there_already(bundles):
    fields = {"model": "stories260k", "temperature": 0, "max_tokens": 8}
    stats = {"extra_body": {"include_hat_stats": True}}
    async with openai_client(bundles) as (_, client):
        first = await client.completions.create(**fields, prompt=PROMPTS[0])
        longer = PROMPTS[0] + first.choices[0].text + " One day,"
        second = await client.completions.create(**fields, **stats, prompt=longer)
        options = {"include_usage": True}
        stream = await client.completions.create(
            **fields, prompt=longer, stream=True, stream_options=options, n=3
        )
        chunks = [chunk async for chunk in stream]
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    num_cached = second.usage.prompt_tokens_details.cached_tokens
    assert num_cached == second.model_extra["hat"]["reused_prompt_tokens"]
    assert first.usage.prompt_tokens < num_cached < second.usage.prompt_tokens
    streamed = chunks[-1].usage
    assert streamed.prompt_tokens == second.usage.prompt_tokens
    assert num_cached <= streamed.prompt_tokens_details.cached_tokens < streamed.prompt_tokens


@pytest.mark.parametrize("wanted", [b"\xf0\x9f\x98\x80", b"\xf0", b"\xe4\xbd", b"\xff"])
async def test_bytes_that_become_no_character_are_no_text(bundles, wanted):
    """Biased to byte tokens, which come in whatever order the model likes."""
    bias = {str(3 + byte): 100 for byte in wanted}
    fields = {"logit_bias": bias, "temperature": 0}

    async with openai_client(bundles) as (_, client):
        for max_tokens in range(1, 7):
            text = await completion(client, PROMPTS[0], max_tokens=max_tokens, **fields)
            chat = await streamed(client, PROMPTS[0], max_tokens=max_tokens, **fields)
            assert text == chat
            assert not text.endswith("\ufffd")

"""The endpoint as OpenAI's own Python package sees it."""

import asyncio
from contextlib import asynccontextmanager

import openai
import pytest

from device_runtime.api.service import AccessRules
from device_runtime.generation.request import CloudUnavailableError
from tests.support.api_server import (
    EOS,
    MODEL,
    STORY,
    encoded,
    story_generator,
    story_server,
)
from tests.support.fake_generator import FakeGenerator

USER = [{"role": "user", "content": "Once upon a time,"}]


@asynccontextmanager
async def openai_client(generator=None, api_key="unused", **changes):
    """The package's client, which does not retry, and the generator that it talks to."""
    async with story_server(generator, **changes) as (server, used):
        base_url = server.url + "/v1"
        async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0) as client:
            yield client, used


def ask(client, **fields):
    return client.chat.completions.create(model=MODEL, messages=USER, **fields)


async def test_models_are_listed_and_retrieved():
    async with openai_client() as (client, _):
        assert [model.id async for model in client.models.list()] == [MODEL]
        assert (await client.models.retrieve(MODEL)).max_model_len == 512


async def test_a_chat_and_its_request_id():
    async with openai_client() as (client, generator):
        answer = await ask(client)
        assert answer.choices[0].message.content == STORY
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.completion_tokens == len(encoded(STORY)) + 1
        assert answer._request_id == generator.request_ids[0]


async def test_a_stream_with_usage():
    async with openai_client() as (client, _):
        stream = await ask(client, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content for chunk in chunks[:-2]) == STORY
        assert (chunks[-2].choices[0].delta.content, chunks[-2].choices[0].finish_reason) == (
            None,
            "stop",
        )
        assert chunks[0].choices[0].delta.role == "assistant"
        assert (chunks[-1].choices, chunks[-1].usage.prompt_tokens) == ([], 6)
        assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 0


async def test_the_stream_helper_collects_a_message():
    async with openai_client() as (client, _):
        async with client.chat.completions.stream(model=MODEL, messages=USER) as stream:
            answer = await stream.get_final_completion()
        assert answer.choices[0].message.content == STORY


async def test_the_stream_helper_sees_that_the_length_ended_an_answer():
    async with openai_client() as (client, _):
        with pytest.raises(openai.LengthFinishReasonError):
            async with client.chat.completions.stream(
                model=MODEL, messages=USER, max_completion_tokens=3
            ) as stream:
                await stream.get_final_completion()


async def test_completions_with_stop_and_log_probabilities():
    async with openai_client() as (client, _):
        answer = await client.completions.create(
            model=MODEL, prompt="Once", max_tokens=50, stop=[" dog"], logprobs=1
        )
        [choice] = answer.choices
        assert (choice.text, choice.finish_reason) == (" there was a little", "stop")
        assert "".join(choice.logprobs.tokens) == choice.text


async def test_chat_log_probabilities():
    async with openai_client() as (client, _):
        answer = await ask(client, logprobs=True, top_logprobs=2, max_tokens=2)
        [first, _] = answer.choices[0].logprobs.content
        assert (first.token, bytes(first.bytes), first.logprob) == (" there", b" there", -0.25)
        assert len(first.top_logprobs) == 2


async def test_choices_with_a_seed_are_the_same_again():
    def answer_by_seed(request):
        return [259 + request.sampling.seed % 200, EOS]

    async with openai_client(FakeGenerator(answer_by_seed)) as (client, _):
        first, second = [await ask(client, n=4, seed=3) for _ in range(2)]
        texts = [choice.message.content for choice in first.choices]
        assert len(set(texts)) > 1
        assert texts == [choice.message.content for choice in second.choices]


async def test_errors_are_the_packages_own_kinds():
    async with openai_client() as (client, _):
        with pytest.raises(openai.NotFoundError) as missing:
            await client.models.retrieve("other")
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as bad:
            await ask(client, max_tokens=5000)
        assert bad.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError) as refused:
            await ask(client, modalities=["audio"])
        assert (refused.value.param, refused.value.code) == ("modalities", "unsupported_parameter")


async def test_a_wrong_key_is_an_authentication_error():
    async with openai_client(api_key="wrong", access=AccessRules(api_key="right")) as (client, _):
        with pytest.raises(openai.AuthenticationError):
            await ask(client)


async def test_a_lost_cloud_is_an_error_in_the_stream_with_its_code():
    async with openai_client(story_generator(errors={2: CloudUnavailableError("lost")})) as (
        client,
        _,
    ):
        stream = await ask(client, stream=True)
        texts = [(await anext(stream)).choices[0].delta.content for _ in range(2)]
        assert texts == [" there", " was"]
        with pytest.raises(openai.APIError) as lost:
            await anext(stream)
        assert lost.value.code == "cloud_unavailable"


async def test_an_unreachable_cloud_is_a_503_that_says_when_to_come_back():
    async with openai_client() as (client, generator):
        generator.errors[0] = CloudUnavailableError("not yet", retry_after_s=0.1)
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(client)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "1"
        generator.errors.clear()
        assert (await ask(client)).choices


async def test_closing_a_stream_early_ends_the_generation():
    async with openai_client(story_generator(gates={1: asyncio.Event()})) as (client, generator):
        stream = await ask(client, stream=True)
        async for _ in stream:
            break
        await stream.close()
        await generator.until_all_closed()
        assert generator.num_closed == 1


async def test_parts_of_text_are_accepted_and_others_refused():
    async with openai_client() as (client, generator):

        def parts(*parts):
            return [{"role": "user", "content": list(parts)}]

        text = {"type": "text", "text": "Once"}
        await client.chat.completions.create(model=MODEL, messages=parts(text))
        assert generator.requests[0].prompt_ids == [1, *encoded("Once")]
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model=MODEL, messages=parts(text, image))
        assert refused.value.param == "messages[0].content[1].type"

"""The Responses API as OpenAI's own Python package sees it; what the model says is scripted."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from device_runtime.calling.layouts import HERMES
from tests.integration.test_responses import TOOLS, client_of
from tests.integration.test_tool_calls import ROME, scripted, written
from tests.support.api_server import MODEL
from tests.support.fake_generator import FakeGenerator

CALL = written(HERMES, ("get_weather", ROME))


class Person(BaseModel):
    """What an answer is to be."""

    name: str
    age: int


@asynccontextmanager
async def openai_client(text: str | FakeGenerator) -> AsyncIterator[openai.AsyncOpenAI]:
    generator = scripted(text) if isinstance(text, str) else text
    async with (
        client_of(generator) as server,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client,
    ):
        yield client


async def test_a_response_is_created_retrieved_gone_on_from_and_deleted() -> None:
    async with openai_client("Hello.") as client:
        first = await client.responses.create(model=MODEL, input="Hi", instructions="Be nice.")
        assert first.output_text == "Hello."
        assert first.usage is not None
        assert first.usage.input_tokens_details.cached_tokens == 0
        kept: Any = await client.responses.retrieve(first.id)
        assert kept.output_text == "Hello."
        second = await client.responses.create(
            model=MODEL, input="More", previous_response_id=first.id
        )
        assert second.previous_response_id == first.id
        await client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(first.id)


async def test_a_stream_of_events() -> None:
    async with openai_client("Hello.") as client:
        stream = await client.responses.create(model=MODEL, input="Hi", stream=True)
        events: list[Any] = [event async for event in stream]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "Hello."
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "Hello."


async def test_the_stream_helper_collects_calls() -> None:
    async with openai_client(f"I look. {CALL}") as client:
        tools: Any = TOOLS
        async with client.responses.stream(model=MODEL, input="Hi", tools=tools) as stream:
            kinds = [event.type async for event in stream]
            response = await stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    assert response.output_text == "I look."
    call: Any = response.output[1]
    assert json.loads(call.arguments) == ROME


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_an_answer_is_parsed_into_a_model(is_streamed: bool) -> None:
    async with openai_client('{"name": "Ada", "age": 36}') as client:
        fields: Any = {"model": MODEL, "input": "Who?", "text_format": Person}
        if is_streamed:
            async with client.responses.stream(**fields) as stream:
                response = await stream.get_final_response()
        else:
            response = await client.responses.parse(**fields)
    assert response.output_parsed == Person(name="Ada", age=36)


async def test_the_loop_of_a_tool() -> None:
    async with openai_client(CALL) as client:
        tools: Any = TOOLS
        said: list[Any] = [{"role": "user", "content": "Weather?"}]
        first = await client.responses.create(model=MODEL, input=said, tools=tools)
        said += first.output
        [call] = [item for item in first.output if item.type == "function_call"]
        said.append(
            {"type": "function_call_output", "call_id": call.call_id, "output": "It is sunny."}
        )
        second = await client.responses.create(model=MODEL, input=said, tools=tools)
    assert second.status == "completed"


async def test_faults_raise_what_they_are() -> None:
    async with openai_client("Hello.") as client:
        image: Any = [{"type": "input_image", "image_url": "x", "detail": "auto"}]
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model=MODEL, input=[{"role": "user", "content": image}])
        assert caught.value.param == "input[0].content[0].type"
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(model="gpt", input="Hi")


async def test_a_stream_that_fails_in_the_middle_raises() -> None:
    async with openai_client(CALL[:-20]) as client:
        tools: Any = TOOLS
        stream = await client.responses.create(model=MODEL, input="Hi", tools=tools, stream=True)
        with pytest.raises(openai.APIError, match="get_weather"):
            async for _ in stream:
                pass

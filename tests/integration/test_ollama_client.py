"""The endpoint as Ollama's own Python package sees it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import ollama
import pytest

from device_runtime.api.service import Timing
from device_runtime.calling.layouts import HERMES
from device_runtime.generation.request import CloudUnavailableError
from tests.integration.test_thinking import service_of as thinking_service
from tests.integration.test_tool_calls import ROME, ids_of, scripted, service_of, written
from tests.support.api_server import EOS, MODEL, make_service, serving
from tests.support.fake_generator import FakeGenerator, always

TURNS = [{"role": "user", "content": "How warm is it in Rome?"}]


@asynccontextmanager
async def client_of(service: Any) -> AsyncIterator[ollama.AsyncClient]:
    async with serving(service) as server, ollama.AsyncClient(host=server.url) as client:
        yield client


def answering(text: str) -> Any:
    return service_of(scripted(text), HERMES)


def get_weather(city: str, days: int = 1) -> str:
    """The weather of a city.

    Args:
        city: Which.
        days: How many.

    Returns:
        str: How warm it is.
    """
    return f"25 degrees in {city} for {days} days"


async def test_a_chat() -> None:
    async with client_of(answering("Hello.")) as client:
        told = await client.chat(f"{MODEL}:latest", TURNS, options={"temperature": 0})
        assert told.message.content == "Hello."
        assert (told.done, told.done_reason) == (True, "stop")
        assert told.eval_count == len("Hello.") + 1
        stream = [part async for part in await client.chat(MODEL, TURNS, stream=True)]
    assert "".join(part.message.content or "" for part in stream) == "Hello."
    assert stream[-1].eval_count == told.eval_count


async def test_a_loop_of_tools() -> None:
    texts = [written(HERMES, ("get_weather", ROME)), "It is warm."]
    ids = [[*ids_of(text), EOS] for text in texts]
    generator = FakeGenerator(lambda request: ids.pop(0), max_context_tokens=8192)
    async with client_of(service_of(generator, HERMES)) as client:
        first = await client.chat(MODEL, TURNS, tools=[get_weather])
        [call] = first.message.tool_calls or ()
        result = get_weather(**call.function.arguments)
        turns = [*TURNS, first.message, {"role": "tool", "tool_name": "x", "content": result}]
        last = await client.chat(MODEL, turns, tools=[get_weather])
    assert result == "25 degrees in Rome for 2 days"
    assert (last.message.content, last.message.tool_calls) == ("It is warm.", None)


async def test_a_prompt_is_answered_or_continued() -> None:
    async with client_of(answering("Hello.")) as client:
        assert (await client.generate(MODEL, "Say hello.")).response == "Hello."
        stream = await client.generate(MODEL, "Say hello.", raw=True, stream=True)
        assert "".join([part.response or "" async for part in stream]) == "Hello."
        loaded = await client.generate(MODEL, keep_alive="5m")
    assert (loaded.done, loaded.done_reason, loaded.response) == (True, "load", "")


async def test_thoughts_stand_beside_the_answer() -> None:
    async with client_of(thinking_service(scripted("<think>Hm.</think>Warm."))) as client:
        told = await client.chat(MODEL, TURNS, think=True)
    assert (told.message.thinking, told.message.content) == ("Hm.", "Warm.")


async def test_a_format_holds_the_answer() -> None:
    generator = scripted("{}")
    async with client_of(service_of(generator, HERMES)) as client:
        await client.chat(MODEL, TURNS, format="json")
        await client.chat(MODEL, TURNS, format={"type": "object", "required": ["a"]})
    assert all(request.grammar is not None for request in generator.requests)


async def test_what_is_served_is_told() -> None:
    async with client_of(answering("")) as client:
        [listed] = (await client.list()).models
        [running] = (await client.ps()).models
        shown = await client.show(f"{MODEL}:latest")
    assert (listed.model, running.model) == (MODEL, MODEL)
    assert (running.context_length, running.expires_at is not None) == (8192, True)
    assert shown.capabilities == ["completion", "tools"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["hat.context_length"] == 8192


async def test_a_stream_that_is_silent_for_a_while() -> None:
    gate = asyncio.Event()
    generator = FakeGenerator(always([*ids_of("Hello."), EOS]), gates={2: gate})
    async with client_of(make_service(generator, timing=Timing(ping_s=0.01))) as client:
        stream = await client.chat(MODEL, TURNS, stream=True)
        told = [(await anext(stream)).message.content, (await anext(stream)).message.content]
        asyncio.get_running_loop().call_later(0.1, gate.set)
        told += [part.message.content async for part in stream]
    assert "".join(text or "" for text in told) == "Hello."


async def test_errors_are_the_packages_own() -> None:
    async with client_of(answering("Hello.")) as client:
        with pytest.raises(ollama.ResponseError, match="'x' does not exist") as caught:
            await client.chat("x", TURNS)
        assert caught.value.status_code == 404
        with pytest.raises(ollama.ResponseError, match="embeddings are not served here"):
            await client.embed(MODEL, "Hello.")
        with pytest.raises(ollama.ResponseError, match="POST /api/pull is not served here"):
            await client.pull(MODEL)
    generator = FakeGenerator(
        always(ids_of("Hello.")), errors={3: CloudUnavailableError("the cloud is away", 1.0)}
    )
    async with client_of(make_service(generator)) as client:
        stream = await client.chat(MODEL, TURNS, stream=True)
        with pytest.raises(ollama.ResponseError, match="the cloud is away"):
            [part async for part in stream]

"""The endpoint as Anthropic's own Python package sees it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import pydantic
import pytest

from device_runtime.api.service import AccessRules
from device_runtime.calling.layouts import HERMES
from device_runtime.generation.request import CloudUnavailableError
from tests.integration.test_thinking import service_of as thinking_service
from tests.integration.test_tool_calls import ROME, ids_of, scripted, service_of, written
from tests.support.anthropic_events import LOOK
from tests.support.api_server import EOS, MODEL, make_service, serving
from tests.support.fake_generator import FakeGenerator, always

ASKED: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 4096,
    "messages": [{"role": "user", "content": "How warm is it in Rome?"}],
}


@asynccontextmanager
async def client_of(
    service: Any, api_key: str = "unused"
) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The package's client, which does not retry."""
    async with (
        serving(service) as server,
        anthropic.AsyncAnthropic(base_url=server.url, api_key=api_key, max_retries=0) as client,
    ):
        yield client


def answering(text: str) -> Any:
    return service_of(scripted(text), HERMES)


async def test_a_message() -> None:
    async with client_of(answering("Hello.")) as client:
        told = await client.messages.create(**ASKED, system="Be brief.")
    [block] = told.content
    assert isinstance(block, anthropic.types.TextBlock)
    assert block.text == "Hello."
    assert (told.stop_reason, told.role, told.model) == ("end_turn", "assistant", MODEL)
    assert told.usage.output_tokens == len("Hello.") + 1


async def test_a_stream_of_text() -> None:
    async with (
        client_of(answering("Hello.")) as client,
        client.messages.stream(**ASKED) as stream,
    ):
        assert "".join([text async for text in stream.text_stream]) == "Hello."
        final = await stream.get_final_message()
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == len("Hello.") + 1
    assert final.usage.input_tokens > 0


async def test_a_loop_of_tools() -> None:
    calling, answer = [written(HERMES, ("get_weather", ROME)), "It is warm."]
    texts = [[*ids_of(calling), EOS], [*ids_of(answer), EOS]]
    generator = FakeGenerator(lambda request: texts.pop(0), max_context_tokens=8192)
    async with client_of(service_of(generator, HERMES)) as client:
        first = await client.messages.create(**ASKED, tools=[LOOK])
        assert first.stop_reason == "tool_use"
        [call] = first.content
        assert isinstance(call, anthropic.types.ToolUseBlock)
        assert (call.name, call.input) == ("get_weather", ROME)
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "25 degrees"}
        turns = [
            *ASKED["messages"],
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ]
        last = await client.messages.create(**{**ASKED, "messages": turns}, tools=[LOOK])
    assert [block.type for block in last.content] == ["text"]
    assert last.stop_reason == "end_turn"


async def test_the_tool_runner_calls_functions() -> None:
    seen = []

    @anthropic.beta_async_tool
    async def get_weather(city: str, days: int = 1) -> str:
        """The weather of a city."""
        seen.append((city, days))
        return "25 degrees"

    texts = [written(HERMES, ("get_weather", ROME)), "It is warm."]
    ids = [[*ids_of(text), EOS] for text in texts]
    generator = FakeGenerator(lambda request: ids.pop(0), max_context_tokens=8192)
    async with client_of(service_of(generator, HERMES)) as client:
        runner = client.beta.messages.tool_runner(**ASKED, tools=[get_weather])
        last = await runner.until_done()
    assert seen == [("Rome", 2)]
    assert last.content[0].text == "It is warm."


async def test_calls_in_a_stream_are_put_together() -> None:
    text = f"Let me look. {written(HERMES, ('get_weather', ROME))}"
    async with (
        client_of(answering(text)) as client,
        client.messages.stream(**ASKED, tools=[LOOK]) as stream,
    ):
        final = await stream.get_final_message()
    words, call = final.content
    assert words.text == "Let me look."
    assert isinstance(call, anthropic.types.ToolUseBlock)
    assert call.input == ROME
    assert final.stop_reason == "tool_use"


async def test_thoughts_and_their_way_back() -> None:
    service = thinking_service(scripted("<think>Hm.</think>Warm."))
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    async with client_of(service) as client:
        async with client.messages.stream(**ASKED, thinking=thinking) as stream:
            final = await stream.get_final_message()
        thought, words = final.content
        assert isinstance(thought, anthropic.types.ThinkingBlock)
        assert (thought.thinking, thought.signature, words.text) == ("Hm.", "unsigned", "Warm.")
        turns = [
            *ASKED["messages"],
            {"role": "assistant", "content": final.content},
            *ASKED["messages"],
        ]
        told = await client.messages.create(**{**ASKED, "messages": turns}, thinking=thinking)
    assert told.content[0].thinking == "Hm."


class Weather(pydantic.BaseModel):
    """What is asked for."""

    city: str
    days: int


async def test_an_answer_is_parsed_as_a_type() -> None:
    async with client_of(answering('{"city": "Rome", "days": 2}')) as client:
        told = await client.messages.parse(**ASKED, output_format=Weather)
    assert told.parsed_output == Weather(city="Rome", days=2)


async def test_tokens_are_counted() -> None:
    async with client_of(answering("Hello.")) as client:
        counted = await client.messages.count_tokens(
            model=MODEL, messages=ASKED["messages"], tools=[LOOK]
        )
        told = await client.messages.create(**ASKED, tools=[LOOK])
    assert counted.input_tokens == told.usage.input_tokens


async def test_models_are_listed() -> None:
    async with client_of(answering("")) as client:
        page = await client.models.list(limit=20)
        assert (page.first_id, page.last_id, page.has_more) == (MODEL, MODEL, False)
        [model] = [model async for model in page]
        assert model == await client.models.retrieve(MODEL)
        assert (model.id, model.display_name, model.type) == (MODEL, MODEL, "model")
        assert (model.max_input_tokens, model.max_tokens) == (8192, 8192)
        assert model.created_at.timestamp() == 1_790_000_000
        with pytest.raises(anthropic.NotFoundError, match="does not exist") as refusal:
            await client.models.retrieve("other")
        assert refusal.value.body["type"] == "error"


async def test_errors_are_the_packages_own() -> None:
    service = make_service(scripted("Hello."), access=AccessRules(api_key="right"))
    async with client_of(service, "wrong") as client:
        with pytest.raises(anthropic.AuthenticationError, match="x-api-key"):
            await client.messages.create(**ASKED)
    async with client_of(service, "right") as client:
        assert (await client.messages.create(**ASKED)).content[0].text == "Hello."
        with pytest.raises(anthropic.NotFoundError, match="claude-x"):
            await client.messages.create(**{**ASKED, "model": "claude-x"})
        with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\].role"):
            await client.messages.create(**{**ASKED, "messages": [{"role": "x", "content": ""}]})
    generator = FakeGenerator(
        always(ids_of("Hello.")), errors={3: CloudUnavailableError("the cloud is away", 1.0)}
    )
    async with client_of(make_service(generator)) as client:
        fields = {**ASKED, "max_tokens": 9}
        with pytest.raises(anthropic.APIStatusError, match="the cloud is away"):
            await client.messages.create(**fields)
        with pytest.raises(anthropic.APIStatusError, match="the cloud is away"):
            async with client.messages.stream(**fields) as stream:
                await stream.get_final_message()

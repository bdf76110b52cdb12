"""OpenAI's Agents SDK and pydantic-ai, unmodified, on the Responses API; the model is scripted."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from agents import Agent, Runner, function_tool
from agents.models.openai_responses import OpenAIResponsesModel as AgentsModel
from agents.run import RunConfig
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import NativeOutput, PromptedOutput
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from device_runtime.calling.layouts import HERMES
from device_runtime.generation.request import GenerationRequest
from tests.integration.test_responses import client_of
from tests.integration.test_tool_calls import ids_of, written
from tests.support.api_server import EOS, MODEL
from tests.support.fake_generator import FakeGenerator
from tests.support.tokenizers import story_tokenizer

SUNNY = "It is sunny in Rome."
ADA = '{"name": "Ada", "age": 36}'
CALL = written(HERMES, ("get_weather", {"city": "Rome"}))
NO_TRACES = RunConfig(tracing_disabled=True)


class Person(BaseModel):
    """What an answer is to be."""

    name: str
    age: int


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"Report: sun over {city}."


@asynccontextmanager
async def client_that_says(words: Mapping[str, str]) -> AsyncIterator[AsyncOpenAI]:
    """A client of a model that says what belongs to the first key found in its prompt."""

    def answer(request: GenerationRequest) -> list[int]:
        prompt = story_tokenizer().decode(list(request.prompt_ids))
        text = next(text for key, text in words.items() if key in prompt)
        return [*ids_of(text), EOS]

    generator = FakeGenerator(answer, max_context_tokens=8192)
    async with (
        client_of(generator) as server,
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client,
    ):
        yield client


WEATHER = {"Report: sun over Rome.": SUNNY, "": CALL}


async def test_an_agent_of_the_agents_sdk_uses_a_tool_and_goes_on() -> None:
    async with client_that_says(WEATHER) as client:
        model = AgentsModel(MODEL, client)
        agent = Agent(
            "guide", instructions="Be nice.", model=model, tools=[function_tool(get_weather)]
        )
        result = await Runner.run(agent, "Weather?", run_config=NO_TRACES)
        assert result.final_output == SUNNY
        more = await Runner.run(
            agent, "Sure?", previous_response_id=result.last_response_id, run_config=NO_TRACES
        )
        assert more.final_output == SUNNY
        streamed = Runner.run_streamed(agent, "Weather?", run_config=NO_TRACES)
        kinds = {event.type async for event in streamed.stream_events()}
    assert streamed.final_output == SUNNY
    assert "run_item_stream_event" in kinds


async def test_an_agent_of_the_agents_sdk_gives_an_object_and_hands_off() -> None:
    words = {
        "You bill.": "Three.",
        "Who?": ADA,
        "": written(HERMES, ("transfer_to_billing", {})),
    }
    async with client_that_says(words) as client:
        model = AgentsModel(MODEL, client)
        result = await Runner.run(
            Agent("who", model=model, output_type=Person), "Who?", run_config=NO_TRACES
        )
        assert result.final_output == Person(name="Ada", age=36)
        billing = Agent("billing", instructions="You bill.", model=model)
        desk: Agent[Any] = Agent("desk", model=model, handoffs=[billing])
        result = await Runner.run(desk, "My bill?", run_config=NO_TRACES)
    assert result.last_agent.name == "billing"
    assert result.final_output == "Three."


def pydantic_model(client: AsyncOpenAI) -> OpenAIResponsesModel:
    return OpenAIResponsesModel(MODEL, provider=OpenAIProvider(openai_client=client))


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_an_agent_of_pydantic_ai_uses_a_tool_and_goes_on(is_streamed: bool) -> None:
    async with client_that_says(WEATHER) as client:
        agent = PydanticAgent(pydantic_model(client), instructions="Be nice.", tools=[get_weather])
        if is_streamed:
            async with agent.run_stream("Weather?") as stream:
                assert await stream.get_output() == SUNNY
                history = stream.all_messages()
        else:
            result = await agent.run("Weather?")
            assert result.output == SUNNY
            history = result.all_messages()
        assert (await agent.run("Sure?", message_history=history)).output == SUNNY


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (NativeOutput(Person), ADA),
        (PromptedOutput(Person), ADA),
        (Person, written(HERMES, ("final_result", {"name": "Ada", "age": 36}))),
    ],
)
async def test_an_agent_of_pydantic_ai_gives_an_object(output: Any, text: str) -> None:
    async with client_that_says({"": text}) as client:
        agent = PydanticAgent(pydantic_model(client), output_type=output)
        result = await agent.run("Who?")
    assert result.output == Person(name="Ada", age=36)

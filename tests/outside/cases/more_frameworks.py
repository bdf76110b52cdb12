"""More frameworks: Haystack, AutoGen, Semantic Kernel; and an agent with tools by MCP."""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

from tests.outside.cases.asking import ASK, KEY, SCHEMA, TRIP, URL, Trip, case, get_weather, model


def haystack_model(**fields: Any) -> Any:
    from haystack.components.generators.chat import OpenAIChatGenerator
    from haystack.utils import Secret

    return OpenAIChatGenerator(
        api_key=Secret.from_token(KEY), model=model(), api_base_url=URL, **fields
    )


@case
def haystack__stream() -> Any:
    from haystack.dataclasses import ChatMessage

    pieces: list[Any] = []
    llm = haystack_model(streaming_callback=pieces.append, generation_kwargs={"max_tokens": 20})
    made = llm.run([ChatMessage.from_user("Hi")])["replies"][0].text
    assert made == "".join(piece.content for piece in pieces)
    return made


def _haystack_tool() -> Any:
    from haystack.tools import Tool

    return Tool("get_weather", "The weather.", SCHEMA, get_weather)


@case
def haystack__streamed_tools() -> Any:
    from haystack.dataclasses import ChatMessage

    llm = haystack_model(streaming_callback=lambda piece: None)
    asked = {"max_tokens": 300, "tool_choice": "required", "parallel_tool_calls": False}
    [made] = llm.run(
        [ChatMessage.from_user(ASK)], generation_kwargs=asked, tools=[_haystack_tool()]
    )["replies"]
    assert set(made.tool_calls[0].arguments) == {"city", "days"}
    return made.tool_calls[0].arguments


@case
def haystack__structured() -> Any:
    from haystack.dataclasses import ChatMessage

    llm = haystack_model(generation_kwargs={"response_format": Trip, "max_tokens": 200})
    return Trip.model_validate_json(llm.run([ChatMessage.from_user(TRIP)])["replies"][0].text)


@case
def haystack__agent() -> Any:
    from haystack.components.agents import Agent
    from haystack.dataclasses import ChatMessage

    llm = haystack_model(generation_kwargs={"max_tokens": 300})
    agent = Agent(chat_generator=llm, tools=[_haystack_tool()], max_agent_steps=3)
    return agent.run(messages=[ChatMessage.from_user(ASK)])["messages"][-1].text


def autogen_model() -> Any:
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    can = {
        "vision": False, "function_calling": True, "json_output": True, "family": "unknown",
        "structured_output": True,
    }  # fmt: skip
    return OpenAIChatCompletionClient(
        model=model(), base_url=URL, api_key=KEY, model_info=can, max_tokens=300
    )


@case
def autogen__streamed_agent() -> Any:
    from autogen_agentchat.agents import AssistantAgent

    async def run() -> Any:
        agent = AssistantAgent(
            "agent", autogen_model(), tools=[get_weather], reflect_on_tool_use=True,
            model_client_stream=True,
        )  # fmt: skip
        return [event async for event in agent.run_stream(task=ASK)][-1].messages[-1].content

    return asyncio.run(run())


@case
def autogen__structured() -> Any:
    from autogen_core.models import UserMessage

    async def run() -> Any:
        made = await autogen_model().create(
            [UserMessage(content=TRIP, source="user")], json_output=Trip
        )
        return Trip.model_validate_json(made.content)

    return asyncio.run(run())


def _kernel_agent(**fields: Any) -> Any:
    from openai import AsyncOpenAI
    from semantic_kernel.agents import ChatCompletionAgent
    from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion

    client = AsyncOpenAI(base_url=URL, api_key=KEY)
    llm = OpenAIChatCompletion(ai_model_id=model(), async_client=client)
    return ChatCompletionAgent(service=llm, name="agent", **fields)


@case
def semantic_kernel__tools() -> Any:
    from semantic_kernel.functions import kernel_function

    class Weather:
        """What the kernel may call."""

        @kernel_function(description="The weather of a city.")
        def get_weather(self, city: Annotated[str, "The city"], days: int) -> str:
            """The weather of a city."""
            return get_weather(city, days)

    async def run() -> Any:
        return str((await _kernel_agent(plugins=[Weather()]).get_response(ASK)).content)

    return asyncio.run(run())


@case
def semantic_kernel__structured() -> Any:
    from semantic_kernel.connectors.ai.open_ai import OpenAIChatPromptExecutionSettings
    from semantic_kernel.functions import KernelArguments

    settings = OpenAIChatPromptExecutionSettings(response_format=Trip, max_tokens=200)

    async def run() -> Any:
        agent = _kernel_agent(arguments=KernelArguments(settings))
        return Trip.model_validate_json(str((await agent.get_response(TRIP)).content))

    return asyncio.run(run())


_MCP_SERVER = """
try:
    from mcp.server.mcpserver import MCPServer
except ImportError:
    from mcp.server.fastmcp import FastMCP as MCPServer
server = MCPServer("weather")
@server.tool()
def get_weather(city: str, days: int) -> str:
    "The weather of a city."
    return f"It is 21 degrees in {city} for {days} days."
server.run()
"""


@case
def agents__mcp() -> Any:
    """openai-agents with a tool that a program beside it serves by MCP."""
    os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"
    from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner
    from agents.mcp import MCPServerStdio
    from openai import AsyncOpenAI

    async def run() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "server.py"
            program.write_text(_MCP_SERVER)
            started = {"command": sys.executable, "args": [str(program)]}
            async with MCPServerStdio(params=started) as server:
                client = AsyncOpenAI(base_url=URL, api_key=KEY)
                agent = Agent(
                    name="agent", mcp_servers=[server],
                    model=OpenAIChatCompletionsModel(model(), client),
                    model_settings=ModelSettings(max_tokens=300, tool_choice="required"),
                )  # fmt: skip
                made = await Runner.run(agent, ASK, max_turns=3)
        outputs = [item.output for item in made.new_items if item.type == "tool_call_output_item"]
        assert outputs, made
        return json.dumps(str(outputs[0])), made.final_output

    return asyncio.run(run())

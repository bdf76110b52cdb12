"""Frameworks: LangChain and LangGraph, LlamaIndex, Pydantic AI, smolagents, DSPy."""

import asyncio
from typing import Any

from tests.outside.cases.asking import ASK, KEY, TRIP, URL, Trip, case, get_weather, model


def langchain_model() -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model=model(), base_url=URL, api_key=KEY, max_retries=0, max_tokens=300)


@case
def langchain__bind_tools() -> Any:
    made = langchain_model().bind_tools([get_weather], tool_choice="any").invoke(ASK)
    assert made.tool_calls
    return made.tool_calls[0]["args"]


def _langchain_structured(method: str) -> Any:
    made = (
        langchain_model().with_structured_output(Trip, method=method).invoke("Rome, 2 days. JSON")
    )
    assert isinstance(made, Trip), made
    return made


@case
def langchain__json_schema() -> Any:
    return _langchain_structured("json_schema")


@case
def langchain__function_calling() -> Any:
    return _langchain_structured("function_calling")


@case
def langchain__json_mode() -> Any:
    return _langchain_structured("json_mode")


@case
def langchain__create_agent() -> Any:
    from langchain.agents import create_agent

    agent = create_agent(langchain_model(), tools=[get_weather])
    made = agent.invoke({"messages": [{"role": "user", "content": ASK}]})
    return made["messages"][-1].content


@case
def langgraph__streamed_agent() -> Any:
    from langgraph.prebuilt import create_react_agent

    agent = create_react_agent(langchain_model(), [get_weather], response_format=Trip)
    asked = {"messages": [("user", ASK)]}
    pieces = [piece for piece, _ in agent.stream(asked, stream_mode="messages")]
    assert pieces
    return agent.invoke(asked)["structured_response"]


def llama_index_model() -> Any:
    from llama_index.llms.openai_like import OpenAILike

    return OpenAILike(
        model=model(), api_base=URL, api_key=KEY, is_chat_model=True, max_tokens=300,
        is_function_calling_model=True, context_window=8192,
    )  # fmt: skip


@case
def llama_index__structured() -> Any:
    from llama_index.core.prompts import PromptTemplate

    made = llama_index_model().structured_predict(Trip, PromptTemplate("Rome for two days"))
    assert isinstance(made, Trip)
    return made


@case
def llama_index__tools() -> Any:
    from llama_index.core.tools import FunctionTool

    tool = FunctionTool.from_defaults(fn=get_weather)
    made = llama_index_model().chat_with_tools([tool], user_msg=ASK, tool_required=True)
    return made.message.additional_kwargs["tool_calls"][0].function.arguments


@case
def llama_index__streamed_tools() -> Any:
    from llama_index.core.tools import FunctionTool

    llm, tool = llama_index_model(), FunctionTool.from_defaults(fn=get_weather)
    *_, last = llm.stream_chat_with_tools([tool], user_msg=ASK, tool_required=True)
    [call, *_] = llm.get_tool_calls_from_response(last)
    assert call.tool_kwargs["city"], call
    return call.tool_kwargs


@case
def llama_index__streamed_structured() -> Any:
    from llama_index.core.llms import ChatMessage

    llm = llama_index_model()
    llm.should_use_structured_outputs = True
    asked = [ChatMessage(role="user", content=TRIP)]
    *_, last = llm.as_structured_llm(Trip).stream_chat(asked)
    assert isinstance(last.raw, Trip)
    return last.raw


@case
def llama_index__function_agent() -> Any:
    from llama_index.core.agent.workflow import FunctionAgent

    async def run() -> Any:
        return await FunctionAgent(tools=[get_weather], llm=llama_index_model()).run(ASK)

    return asyncio.run(run())


@case
def llama_index__responses() -> Any:
    from llama_index.llms.openai import OpenAIResponses

    llm = OpenAIResponses(
        model=model(), api_base=URL, api_key=KEY, max_output_tokens=40, context_window=8192
    )
    return llm.complete("Hi").text


def pydantic_ai_model() -> Any:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    return OpenAIChatModel(model(), provider=OpenAIProvider(base_url=URL, api_key=KEY))


@case
def pydantic_ai__tools() -> Any:
    from pydantic_ai import Agent

    agent = Agent(pydantic_ai_model(), tools=[get_weather], model_settings={"max_tokens": 300})
    return agent.run_sync(ASK).output


def _pydantic_ai_output(kind: str) -> Any:
    import pydantic_ai

    output = Trip if kind == "ToolOutput" else getattr(pydantic_ai, kind)(Trip)
    agent = pydantic_ai.Agent(
        pydantic_ai_model(), output_type=output, model_settings={"max_tokens": 300}
    )
    made = agent.run_sync("Rome for two days").output
    assert isinstance(made, Trip)
    return made


@case
def pydantic_ai__tool_output() -> Any:
    return _pydantic_ai_output("ToolOutput")


@case
def pydantic_ai__native_output() -> Any:
    return _pydantic_ai_output("NativeOutput")


@case
def pydantic_ai__prompted_output() -> Any:
    return _pydantic_ai_output("PromptedOutput")


@case
def smolagents__tool_calling_agent() -> Any:
    from smolagents import OpenAIModel, ToolCallingAgent, tool

    llm = OpenAIModel(model_id=model(), api_base=URL, api_key=KEY, max_tokens=300)
    agent = ToolCallingAgent(tools=[tool(get_weather)], model=llm, max_steps=3, verbosity_level=0)
    return agent.run(ASK)


def dspy_model() -> Any:
    """What it knows of models it has by their names, so it is told what this one can do."""
    import dspy
    from dspy import lm15

    access = lm15.AccessPolicy(provider="here", base_url=URL)
    compat = lm15.OpenAIChatCompat.preset("openai")
    provider = lm15.ProviderDefinition.chat(access, compat=compat, placeholder_key=KEY)
    can = lm15.ModelSupport(function_calling=True, response_schema=True)
    lm15.register_provider(provider, supports=can)
    return dspy.LM(f"here/{model()}", api_base=URL, api_key=KEY, max_tokens=300, cache=False)


@case
def dspy__json() -> Any:
    import dspy

    with dspy.context(lm=dspy_model(), adapter=dspy.JSONAdapter()):
        made = dspy.Predict("question -> city: str, days: int")(question=TRIP)
    assert isinstance(made.days, int)
    return made.city, made.days


@case
def dspy__chain_of_thought() -> Any:
    import dspy

    with dspy.context(lm=dspy_model(), adapter=dspy.JSONAdapter()):
        return dspy.ChainOfThought("question -> answer")(question=TRIP).answer


@case
def dspy__tools() -> Any:
    import dspy

    class Asked(dspy.Signature):
        """Use the tools."""

        question: str = dspy.InputField()
        tools: list[dspy.Tool] = dspy.InputField()
        outputs: dspy.ToolCalls = dspy.OutputField()

    adapter = dspy.ChatAdapter(use_native_function_calling=True)
    with dspy.context(lm=dspy_model(), adapter=adapter):
        made = dspy.Predict(Asked)(question=ASK, tools=[dspy.Tool(get_weather)])
    return made.outputs


@case
def dspy__react() -> Any:
    import dspy

    with dspy.context(lm=dspy_model(), adapter=dspy.JSONAdapter()):
        return dspy.ReAct("question -> answer", tools=[get_weather], max_iters=2)(question=ASK)


@case
def dspy__stream() -> Any:
    import dspy

    async def run() -> Any:
        listener = dspy.streaming.StreamListener(signature_field_name="city")
        program = dspy.Predict("question -> city: str, days: int")
        stream = dspy.streamify(program, stream_listeners=[listener])
        with dspy.context(lm=dspy_model(), adapter=dspy.JSONAdapter()):
            made = [piece async for piece in stream(question=TRIP)]
        assert isinstance(made[-1], dspy.Prediction)
        assert len(made) > 1, made
        return "".join(piece.chunk for piece in made[:-1])

    return asyncio.run(run())

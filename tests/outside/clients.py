"""`python tests/outside/clients.py URL [NAME...]`: Python's clients, each with its ordinary use.

It needs nothing of this project but the endpoint at URL (http://127.0.0.1:8000/v1), and looks for
its clients in the environment it runs in. A case that raises nothing worked.
"""

import asyncio
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
KEY = "unused"
ASK = "What is the weather in Rome for 2 days? Use the tool."
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA},
}
RESULT = "It is 21 degrees"
CASES: list[tuple[str, Callable[[], Any]]] = []


class Trip(BaseModel):
    """A journey."""

    city: str
    days: int


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    """One of the cases; its client's name is what stands before the first double underscore."""
    CASES.append((function.__name__, function))
    return function


def model() -> str:
    """The served name."""
    from openai import OpenAI

    name: str = OpenAI(base_url=URL, api_key=KEY).models.list().data[0].id
    return name


def get_weather(city: str, days: int = 1) -> str:
    """The weather of a city.

    Args:
        city: The city's name.
        days: For how many days.
    """
    return f"{RESULT} in {city} for {days} days."


def openai_client() -> Any:
    from openai import OpenAI

    return OpenAI(base_url=URL, api_key=KEY, timeout=300, max_retries=0)


@case
def openai__chat() -> Any:
    made = openai_client().chat.completions.create(
        model=model(), messages=[{"role": "user", "content": "Hi"}], max_tokens=20
    )
    return made.choices[0].message.content


@case
def openai__stream() -> Any:
    stream = openai_client().chat.completions.create(
        model=model(), messages=[{"role": "user", "content": "Hi"}], max_tokens=20, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text
    return text


@case
def openai__tool_loop() -> Any:
    client, messages = openai_client(), [{"role": "user", "content": ASK}]
    given: dict[str, Any] = {"model": model(), "tools": [WEATHER], "max_tokens": 300}
    made = client.chat.completions.create(
        messages=messages, tool_choice="required", parallel_tool_calls=False, **given
    )
    message = made.choices[0].message
    messages.append(message.model_dump(exclude_none=True))
    for call in message.tool_calls:
        result = get_weather(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    made = client.chat.completions.create(messages=messages, tool_choice="none", **given)
    return made.choices[0].message.content


@case
def openai__streamed_tools() -> Any:
    client = openai_client()
    with client.chat.completions.stream(
        model=model(),
        messages=[{"role": "user", "content": ASK}],
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=300,
    ) as stream:
        kinds = {event.type for event in stream}
        [choice] = stream.get_final_completion().choices
    assert "tool_calls.function.arguments.done" in kinds, kinds
    return json.loads(choice.message.tool_calls[0].function.arguments)


@case
def openai__parse() -> Any:
    made = openai_client().chat.completions.parse(
        model=model(),
        messages=[{"role": "user", "content": "Rome for two days, as JSON"}],
        response_format=Trip,
        max_tokens=200,
    )
    assert isinstance(made.choices[0].message.parsed, Trip)
    return made.choices[0].message.parsed


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


def _litellm(**fields: Any) -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    messages = [{"role": "user", "content": ASK}]
    return litellm.completion(
        model=f"openai/{model()}", api_base=URL, api_key=KEY, messages=messages, max_tokens=300,
        **fields,
    )  # fmt: skip


@case
def litellm__tools() -> Any:
    made = _litellm(tools=[WEATHER], tool_choice="required")
    return json.loads(made.choices[0].message.tool_calls[0].function.arguments)


@case
def litellm__response_format() -> Any:
    return Trip.model_validate_json(_litellm(response_format=Trip).choices[0].message.content)


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


@case
def dspy__predict() -> Any:
    import dspy

    lm = dspy.LM(f"openai/{model()}", api_base=URL, api_key=KEY, max_tokens=300, cache=False)
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        made = dspy.Predict("question -> city: str, days: int")(question="Rome for two days")
    return made.city, made.days


def _instructor(mode: str) -> Any:
    import instructor
    from openai import OpenAI

    client = instructor.from_openai(
        OpenAI(base_url=URL, api_key=KEY), mode=getattr(instructor.Mode, mode)
    )
    messages = [{"role": "user", "content": "Rome for two days"}]
    made = client.chat.completions.create(
        model=model(), messages=messages, response_model=Trip, max_tokens=300
    )
    assert isinstance(made, Trip)
    return made


@case
def instructor__tools() -> Any:
    return _instructor("TOOLS")


@case
def instructor__json() -> Any:
    return _instructor("JSON")


@case
def instructor__json_schema() -> Any:
    return _instructor("JSON_SCHEMA")


def _llm(*arguments: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        entry = {
            "model_id": "here", "model_name": model(), "api_base": URL,
            "supports_tools": True, "supports_schema": True,
        }  # fmt: skip
        (Path(folder) / "extra-openai-models.yaml").write_text(json.dumps([entry]))
        environment = {**os.environ, "LLM_USER_PATH": folder, "OPENAI_API_KEY": KEY}
        program = [sys.executable, "-m", "llm", "-m", "here", "--no-stream", "-o", "max_tokens"]
        done = subprocess.run(
            [*program, "300", *arguments],
            env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-300:]
        return done.stdout


@case
def llm__schema() -> Any:
    return Trip.model_validate_json(_llm("--schema", "city, days int", "Rome for two days"))


@case
def llm__tools() -> Any:
    code = "def get_weather(city: str, days: int) -> str:\n    return 'It is 21 degrees'\n"
    return _llm("--functions", code, ASK)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


_PACKAGES = {
    "langchain": "langchain-openai",
    "llama_index": "llama-index-llms-openai-like",
    "pydantic_ai": "pydantic-ai-slim",
}


def main() -> None:
    """Run the cases and print what came of them."""
    wanted, num_failed = sys.argv[2:], 0
    print("| client | version | case | result |\n|---|---|---|---|")
    for name, function in CASES:
        client, _, what = name.partition("__")
        if wanted and client not in wanted:
            continue
        version = _version(_PACKAGES.get(client, client))
        try:
            made = function()
            if asyncio.iscoroutine(made):
                made = asyncio.run(made)
            told = "ok: " + " ".join(str(made).split())[:80]
        except ImportError as error:
            told = f"not installed: {error}"[:120]
        except Exception as error:  # noqa: BLE001  (whatever a client raises is the result)
            num_failed += 1
            told = f"FAILED: {type(error).__name__}: " + " ".join(str(error).split())[:200]
        print(f"| {client} | {version} | {what} | {told.replace('|', '/')} |", flush=True)
    sys.exit(num_failed > 0)


if __name__ == "__main__":
    main()

"""Packages that ask a model: openai, litellm, instructor, llm, aisuite, outlines, guidance."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.outside.cases.asking import ASK, KEY, TRIP, URL, WEATHER, Trip, case, get_weather, model


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
    import llm  # noqa: F401  (whether it is there)

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


@case
def aisuite__tools() -> Any:
    import aisuite

    client = aisuite.Client({"openai": {"base_url": URL, "api_key": KEY}})
    made = client.chat.completions.create(
        model=f"openai:{model()}", messages=[{"role": "user", "content": ASK}],
        tools=[get_weather], max_turns=2, max_tokens=300,
    )  # fmt: skip
    assert made.choices[0].message.content or made.choices[0].message.tool_calls
    return made.choices[0].message.content


def _outlines(output: Any) -> str:
    import openai
    import outlines

    made = outlines.from_openai(openai.OpenAI(base_url=URL, api_key=KEY), model())(
        TRIP, output, max_tokens=200
    )
    assert isinstance(made, str)
    return made


@case
def outlines__openai() -> Any:
    return Trip.model_validate_json(_outlines(Trip))


def _outlines_vllm(output: Any) -> str:
    import openai
    import outlines

    made = outlines.from_vllm(openai.OpenAI(base_url=URL, api_key=KEY), model())(
        TRIP, output, max_tokens=200
    )
    assert isinstance(made, str)
    return made


@case
def outlines__vllm_schema() -> Any:
    return Trip.model_validate_json(_outlines_vllm(Trip))


@case
def outlines__vllm_choice() -> Any:
    from typing import Literal

    made = _outlines_vllm(Literal["It is sunny in Rome.", "It rains."])
    assert made in ("It is sunny in Rome.", "It rains."), made
    return made


@case
def outlines__vllm_regex() -> Any:
    from outlines.types import Regex

    made = _outlines_vllm(Regex("[0-9]{2}"))
    assert len(made) == 2, made
    assert made.isdigit(), made
    return made


@case
def guidance__json() -> Any:
    import guidance

    llm = guidance.models.OpenAI(model(), base_url=URL, api_key=KEY, echo=False)
    with guidance.user():
        llm += TRIP
    with guidance.assistant():
        llm += guidance.json("trip", schema=Trip, max_tokens=200)
    return Trip.model_validate_json(llm["trip"])

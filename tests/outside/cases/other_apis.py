"""The packages of Anthropic and of Ollama, with what their users lean on beside plain answers."""

import asyncio
import json
from typing import Any

from tests.outside.cases.asking import ASK, HOST, KEY, SCHEMA, TRIP, Trip, case, get_weather


def anthropic_client() -> Any:
    import anthropic

    return anthropic.Anthropic(base_url=HOST, api_key=KEY, timeout=300, max_retries=0)


def _asked(client: Any, text: str = "Hi", max_tokens: int = 300) -> dict[str, Any]:
    name = client.models.list().data[0].id
    return {
        "model": name,
        "max_tokens": max_tokens,
        "messages": [{"role": "user", "content": text}],
    }


@case
def anthropic__models() -> Any:
    client = anthropic_client()
    page = client.models.list(limit=20)
    [first, *_] = page
    found = client.models.retrieve(first.id)
    assert (found.id, found.type) == (first.id, "model")
    assert page.has_more is False
    return found.display_name, found.created_at.year, found.max_input_tokens


@case
def anthropic__stream() -> Any:
    client = anthropic_client()
    with client.messages.stream(**_asked(client, max_tokens=20)) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert message.content[0].text == text
    return text


@case
def anthropic__streamed_tools() -> Any:
    client = anthropic_client()
    tool = {"name": "get_weather", "description": "The weather.", "input_schema": SCHEMA}
    choice = {"type": "any", "disable_parallel_tool_use": True}
    with client.messages.stream(**_asked(client, ASK), tools=[tool], tool_choice=choice) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "input_json"]
        message = stream.get_final_message()
    [block] = [block for block in message.content if block.type == "tool_use"]
    assert block.input == snapshots[-1]
    return block.input


@case
def anthropic__parse() -> Any:
    client = anthropic_client()
    made = client.messages.parse(**_asked(client, TRIP), output_format=Trip)
    assert isinstance(made.parsed_output, Trip)
    return made.parsed_output


@case
def anthropic__tool_runner() -> Any:
    import anthropic

    client = anthropic_client()
    tool = anthropic.beta_tool(get_weather)
    runner = client.beta.messages.tool_runner(**_asked(client, ASK), tools=[tool], max_iterations=3)
    return runner.until_done().content


@case
def anthropic__batches_are_refused_by_name() -> Any:
    import anthropic

    client = anthropic_client()
    asked: list[Any] = [{"custom_id": "a", "params": _asked(client)}]
    refusal: Any = None
    try:
        client.messages.batches.create(requests=asked)
    except anthropic.NotFoundError as error:
        refusal = error
    assert "POST /v1/messages/batches" in str(refusal)
    return refusal.body["error"]["type"]


def ollama_client() -> tuple[Any, str]:
    import ollama

    client = ollama.Client(host=HOST)
    return client, client.list().models[0].model


@case
def ollama__what_there_is() -> Any:
    client, name = ollama_client()
    shown = client.show(name)
    [running, *_] = client.ps().models
    assert (
        running.context_length
        == shown.modelinfo[f"{shown.modelinfo['general.architecture']}.context_length"]
    )
    assert "tools" in shown.capabilities
    return shown.modelinfo, shown.parameters


@case
def ollama__stream() -> Any:
    client, name = ollama_client()
    asked = [{"role": "user", "content": "Hi"}]
    made = list(client.chat(name, asked, stream=True, options={"num_predict": 20}))
    assert made[-1].done_reason in ("stop", "length")
    return "".join(piece.message.content or "" for piece in made)


@case
def ollama__tool_loop() -> Any:
    client, name = ollama_client()
    messages: list[Any] = [{"role": "user", "content": ASK}]
    made = client.chat(name, messages, tools=[get_weather], options={"num_predict": 300})
    messages.append(made.message)
    for call in made.message.tool_calls or ():
        result = get_weather(**call.function.arguments)
        messages.append({"role": "tool", "tool_name": call.function.name, "content": result})
    if made.message.tool_calls:
        made = client.chat(name, messages, options={"num_predict": 100})
    return made.message.content


@case
def ollama__format() -> Any:
    client, name = ollama_client()
    made = client.generate(
        name, TRIP, format=Trip.model_json_schema(), options={"num_predict": 200}
    )
    return Trip.model_validate_json(made.response)


@case
def ollama__async_stream() -> Any:
    import ollama

    _, name = ollama_client()

    async def run() -> Any:
        asked = {"model": name, "prompt": "Hi", "options": {"num_predict": 20}}
        pieces = await ollama.AsyncClient(host=HOST).generate(**asked, stream=True)
        return "".join([piece.response async for piece in pieces])

    return json.dumps(asyncio.run(run()))

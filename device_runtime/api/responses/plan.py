"""A request of the Responses API as one of the chat API, planned; its faults in its own words."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace as replace_fields

from device_runtime.api.errors import ApiError, invalid, unsupported
from device_runtime.api.job.plan import Job, plan_chat
from device_runtime.api.request.body import ChatRequest, Message
from device_runtime.api.request.formats import JsonSchemaFormat, ResponseFormat
from device_runtime.api.request.tool_fields import FunctionDefinition, ToolDefinition
from device_runtime.api.responses.conversation import Placed, messages_of
from device_runtime.api.responses.request import (
    ResponsesRequest,
    TextOptions,
    ToolOffer,
    check_supported,
)
from device_runtime.api.service import Service

LEFT_FOR_THE_ANSWER = 256
"""Tokens that cutting a conversation leaves for an answer whose length is not asked for."""

_NAMES = (
    ("messages", "input"),
    ("max_completion_tokens", "max_output_tokens"),
    ("max_tokens", "max_output_tokens"),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("reasoning_effort", "reasoning.effort"),
)
"""Fields of the chat API, and what they are here."""

_TOOL = re.compile(r"^tools\[(\d+)\](?:\.function)?")


def chat_of(request: ResponsesRequest, items: Sequence[Placed]) -> ChatRequest:
    """The same in the chat API's words, with what was said before.

    Raises:
        ApiError: 400, something that is not text, calls or results, or is not supported.
    """
    check_supported(request)
    choice, tools = _choice(request.tool_choice, _functions(request.tools))
    effort = None if request.reasoning is None else request.reasoning.effort
    variables = dict(request.chat_template_kwargs or {})
    if effort == "none":
        # What templates know it by that can do without thoughts.
        variables.setdefault("enable_thinking", False)
    return ChatRequest(
        model=request.model,
        messages=messages_of(request.instructions, items),
        tools=[_definition(tool) for tool in tools.values()] or None,
        tool_choice=choice,
        parallel_tool_calls=request.parallel_tool_calls,
        max_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        seed=request.seed,
        response_format=_format(request.text),
        logprobs=request.wants_logprobs or None,
        top_logprobs=request.top_logprobs or None,
        reasoning_effort=effort,
        chat_template_kwargs=variables or None,
        stream=request.stream,
        store=request.store,
        include_hat_stats=request.include_hat_stats,
    )


async def plan_response(
    service: Service, request: ResponsesRequest, chat: ChatRequest, name: str, arrived_s: float
) -> Job:
    """What a request asks for. With `truncation: auto` its first turns are left out as needed.

    Raises:
        ApiError: 400 or 404, naming the first field at fault, as the chat API calls it.
        OverloadedError: too many texts wait already.
    """
    if request.wants_logprobs and (chat.tools or service.thought_marks is not None):
        where = "top_logprobs" if request.top_logprobs else "include"
        message = "log probabilities are of words alone: not beside tools, nor of who thinks"
        raise unsupported(where, f"{where}: {message}")
    whole, error = await _planned(service, chat, name, arrived_s)
    shorter = shortened(chat.messages) if request.truncation == "auto" else []
    most = service.generator.max_context_tokens // 4
    wanted = min(request.max_output_tokens or LEFT_FOR_THE_ANSWER, most)
    job, best = whole, whole if _has_room(whole, wanted) else None
    low, high = 0, 0 if best is not None else len(shorter)
    # The longest of them that leaves room; those before `low` leave none, that at `high` does.
    while low < high:
        middle = (low + high) // 2
        asked = replace_fields(chat, messages=shorter[middle])
        tried, _ = await _planned(service, asked, name, arrived_s)
        if _has_room(tried, wanted):
            best, high = tried, middle
        else:
            job, low = tried or job, middle + 1
    found = best or job
    if found is None:
        assert error is not None, "without a plan there is a reason"
        raise error
    return found


async def _planned(
    service: Service, chat: ChatRequest, name: str, arrived_s: float
) -> tuple[Job | None, ApiError | None]:
    """The plan, or that the conversation is too long."""
    try:
        return await plan_chat(service, chat, name, arrived_s, cuts_length=True), None
    except ApiError as error:
        if error.code != "context_length_exceeded":
            raise
        return None, error


def _has_room(job: Job | None, num_tokens: int) -> bool:
    return job is not None and job.choices[0].generation.max_tokens >= num_tokens


def in_own_words(error: ApiError, request: ResponsesRequest) -> ApiError:
    """An error of the chat API about a request that `chat_of` has read, with this API's names."""
    functions = list(_choice(request.tool_choice, _functions(request.tools))[1])

    def own_tool(match: re.Match[str]) -> str:
        number = int(match[1])
        return f"tools[{functions[number]}]" if number < len(functions) else match[0]

    def own(text: str) -> str:
        if _TOOL.match(text):
            return _TOOL.sub(own_tool, text)
        for theirs, ours in _NAMES:
            if text.startswith(theirs):
                return ours + text.removeprefix(theirs)
        return text

    param = None if error.param is None else own(error.param)
    return ApiError(
        error.status,
        own(error.message),
        code=error.code,
        param=param,
        retry_after_s=error.retry_after_s,
    )


def shortened(messages: Sequence[Message]) -> list[list[Message]]:
    """The same conversation without its first turns, ever shorter; the last turn remains.

    A turn begins with what the user says. What the system says at the beginning remains too.
    """
    num_first = next(
        (place for place, each in enumerate(messages) if each.role == "user"), len(messages)
    )
    first = [message for message in messages[:num_first] if message.role != "assistant"]
    starts = [place for place, message in enumerate(messages) if message.role == "user"]
    return [[*first, *messages[start:]] for start in starts[1:]]


def _functions(offers: Sequence[ToolOffer] | None) -> dict[int, ToolOffer]:
    """The functions among the tools by their places; others, which OpenAI runs, are left out.

    Programs offer such tools unasked, and do without them.

    Raises:
        ApiError: 400, a function without a name.
    """
    functions = {place: o for place, o in enumerate(offers or ()) if o.type == "function"}
    for place, offer in functions.items():
        if offer.name is None:
            where = f"tools[{place}].name"
            raise invalid(where, f"{where}: this field is required", code="missing_field")
    return functions


def _definition(offer: ToolOffer) -> ToolDefinition:
    assert offer.name is not None, "functions have names"
    return ToolDefinition(
        FunctionDefinition(offer.name, offer.description, offer.parameters, offer.strict)
    )


def _choice(choice: Any, functions: dict[int, ToolOffer]) -> tuple[Any, dict[int, ToolOffer]]:
    """The choice in the chat API's words, and the functions that it leaves.

    Raises:
        ApiError: 400, a choice of what is not served here.
    """
    if not isinstance(choice, Mapping):
        return choice, functions
    match choice.get("type"):
        case "function":
            return {"type": "function", "function": {"name": choice.get("name", "")}}, functions
        case "allowed_tools":
            allowed = choice.get("tools")
            named = allowed if isinstance(allowed, list) else []
            names = {each.get("name") for each in named if isinstance(each, Mapping)}
            left = {place: tool for place, tool in functions.items() if tool.name in names}
            return choice.get("mode", "auto"), left
        case other:
            expected = "expected auto, none, required, a function or allowed_tools"
            message = f"tool_choice: {expected}, got {str(other)[:40]!r}"
            raise unsupported("tool_choice", message)


def _format(text: TextOptions | None) -> ResponseFormat | None:
    if text is None or text.format is None:
        return None
    given = text.format
    if given.type != "json_schema":
        return ResponseFormat(given.type)
    schema = JsonSchemaFormat(given.name, given.description, given.schema, given.strict)
    return ResponseFormat("json_schema", schema)

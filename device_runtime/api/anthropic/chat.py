"""A request of Anthropic's API as one of the chat API's, and faults back in its own words."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from device_runtime.api.anthropic.request import (
    CountRequest,
    MessagesRequest,
    ToolChoice,
    ToolOffer,
)
from device_runtime.api.anthropic.turns import messages_of
from device_runtime.api.errors import invalid, unsupported
from device_runtime.api.request.body import ChatRequest
from device_runtime.api.request.formats import JsonSchemaFormat, ResponseFormat
from device_runtime.api.request.places import Places
from device_runtime.api.request.tool_fields import FunctionDefinition, ToolDefinition

PLACES: Places = {
    re.compile(r"tools\[(\d+)\]\.function\.parameters"): r"tools[\1].input_schema",
    re.compile(r"tools\[(\d+)\]\.function"): r"tools[\1]",
    re.compile(r"stop(?=:)"): "stop_sequences",
    re.compile(r"continue_final_message(?=:)"): "messages",
    re.compile(r"response_format\.json_schema\.schema"): "output_config.format.schema",
}
"""Fields of the chat API as this one calls them."""

_EFFORTS = {"xhigh": "high", "max": "high"}
"""Those that no template knows."""


def chat_of(request: CountRequest, folds_system: bool = False) -> ChatRequest:
    """The same in the chat API's words; `folds_system` as of its messages.

    Raises:
        ApiError: 400, something that is not text, calls or results.
    """
    if request.mcp_servers:
        raise unsupported("mcp_servers", "mcp_servers is not supported here; leave it out")
    thinks = None if request.thinking is None else request.thinking.type != "disabled"
    variables = None if thinks is None else {"enable_thinking": thinks}
    effort = None if request.output_config is None else request.output_config.effort
    chat = ChatRequest(
        model=request.model,
        messages=messages_of(request, folds_system),
        # An answer that the client has begun goes on.
        continue_final_message=request.messages[-1].role == "assistant" or None,
        tools=_tools(request.tools) or None,
        tool_choice=_choice(request.tool_choice),
        parallel_tool_calls=_is_parallel(request.tool_choice),
        response_format=_format(request),
        reasoning_effort=None if effort is None else _EFFORTS.get(effort, effort),
        chat_template_kwargs=variables,
    )
    if not isinstance(request, MessagesRequest):
        return chat
    return msgspec.structs.replace(
        chat,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=request.stop_sequences or None,
        stream=request.stream,
        include_hat_stats=request.include_hat_stats,
    )


def _tools(offers: Sequence[ToolOffer] | None) -> list[ToolDefinition]:
    tools = []
    for place, offer in enumerate(offers or ()):
        where = f"tools[{place}]"
        if offer.type not in (None, "custom"):
            message = (
                f"{where}.type: expected custom, got {offer.type[:40]!r}, which only Anthropic's "
                "servers and models know; offer tools with an input_schema"
            )
            raise unsupported(f"{where}.type", message)
        if offer.name is None:
            where = f"{where}.name"
            raise invalid(where, f"{where}: this field is required", "missing_field")
        function = FunctionDefinition(
            offer.name, offer.description, offer.input_schema, offer.strict
        )
        tools.append(ToolDefinition(function))
    return tools


def _choice(choice: ToolChoice | None) -> Any:
    match choice:
        case None:
            return None
        case ToolChoice(type="auto" | "none" as same):
            return same
        case ToolChoice(type="any"):
            return "required"
        case ToolChoice(type="tool", name=str(name)):
            return {"type": "function", "function": {"name": name}}
        case _:
            expected = "expected auto, any, none, or tool with a name"
            raise invalid("tool_choice", f"tool_choice: {expected}, got {choice.type[:40]!r}")


def _is_parallel(choice: ToolChoice | None) -> bool | None:
    if choice is None or choice.disable_parallel_tool_use is None:
        return None
    return not choice.disable_parallel_tool_use


def _format(request: CountRequest) -> ResponseFormat | None:
    config = request.output_config
    given = request.output_format if config is None or config.format is None else config.format
    if given is None:
        return None
    if given.type != "json_schema":
        where = "output_config.format.type"
        raise unsupported(where, f"{where}: expected json_schema, got {given.type[:40]!r}")
    return ResponseFormat("json_schema", JsonSchemaFormat(schema=given.schema))

"""What clients of the Responses API send, and the same as a conversation of the chat API's."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from device_runtime.api.errors import invalid, unsupported
from device_runtime.api.request.body import (
    MAX_MESSAGES,
    MAX_PARTS,
    ChatRequest,
    Message,
    StreamOptions,
)
from device_runtime.api.request.formats import JsonSchemaFormat, ResponseFormat
from device_runtime.api.request.tool_fields import (
    MAX_TOOLS,
    FunctionCall,
    FunctionDefinition,
    ToolCall,
    ToolDefinition,
)

_NumTokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Content(Struct, frozen=True):
    """A part of an item: text of either side, or a refusal."""

    type: str
    text: str | None = None
    refusal: str | None = None


_Contents = Annotated[list[Content], Meta(max_length=MAX_PARTS)]


class Item(Struct, frozen=True):
    """Something that was said, called or thought, or a call's result; a message has no type."""

    type: str | None = None
    role: str | None = None
    content: str | _Contents | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Any = None
    summary: Any = None


class ToolOffer(Struct, frozen=True):
    """An entry of `tools`."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None


class TextFormat(Struct, frozen=True):
    """What the answer is held to."""

    type: str
    name: str | None = None
    schema: Any = None
    strict: bool | None = None


class TextOptions(Struct, frozen=True):
    """`text`; how many words the answer makes is its own affair."""

    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(Struct, frozen=True):
    """How much the model is to think."""

    effort: str | None = None
    summary: str | None = None


Items = Annotated[list[Item], Meta(max_length=MAX_MESSAGES)]


class ResponsesRequest(Struct, frozen=True, kw_only=True):
    """The body of POST /v1/responses."""

    input: str | Items
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: _NumTokens | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    tools: Annotated[list[ToolOffer], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    truncation: str | None = None
    background: bool | None = None
    metadata: Any = None
    user: str | None = None
    include_hat_stats: bool | None = None


def items_of(given: str | Sequence[Item]) -> tuple[Item, ...]:
    """The input as items."""
    return (Item(role="user", content=given),) if isinstance(given, str) else tuple(given)


def chat_of(request: ResponsesRequest, earlier: Sequence[Item]) -> ChatRequest:
    """The same in the chat API's words, with what was said before.

    Raises:
        ApiError: 400, something that is not text, calls or results, or is not supported.
    """
    if request.background:
        raise unsupported("background", "background is not supported here; leave it out")
    if request.truncation not in (None, "disabled"):
        message = "truncation: expected disabled; nothing is cut silently here"
        raise unsupported("truncation", message)
    messages = list(_messages(request.instructions, [*earlier, *items_of(request.input)]))
    if not messages:
        raise invalid("input", "input: expected at least one item")
    return ChatRequest(
        model=request.model,
        messages=messages,
        tools=_tools(request.tools) or None,
        tool_choice=_choice(request.tool_choice),
        parallel_tool_calls=request.parallel_tool_calls,
        max_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        response_format=_format(request.text),
        reasoning_effort=None if request.reasoning is None else request.reasoning.effort,
        stream=request.stream,
        store=request.store,
        include_hat_stats=request.include_hat_stats,
    )


def _messages(instructions: str | None, items: Sequence[Item]) -> Iterator[Message]:
    """Messages, with neighbouring calls and thoughts of one answer in one."""
    if instructions:
        yield Message("system", instructions)
    said = _Answer()
    for place, item in enumerate(items):
        where = f"input[{place}]"
        kind = item.type or "message"
        if kind == "reasoning":
            said.thoughts.append(_thought(item, where))
        elif kind == "function_call":
            said.calls.append(_call(item, where))
        elif kind == "message" and item.role == "assistant":
            if said.words or said.calls:
                yield from said.take()
            said.words.append(_text(item.content, f"{where}.content"))
        else:
            yield from said.take()
            yield _other(item, kind, where)
    yield from said.take()


class _Answer:
    """What is known of an earlier answer, item by item."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.thoughts: list[str] = []
        self.calls: list[ToolCall] = []

    def take(self) -> Iterator[Message]:
        """The message, if there is one; the next begins anew."""
        if self.words or self.calls:
            thoughts = "\n".join(self.thoughts)
            yield Message(
                "assistant",
                "\n".join(self.words),
                reasoning=thoughts or None,
                tool_calls=list(self.calls) or None,
            )
        self.words, self.thoughts, self.calls = [], [], []


def _other(item: Item, kind: str, where: str) -> Message:
    if kind == "function_call_output":
        output = item.output if item.output is not None else ""
        text = _text(output, f"{where}.output")
        return Message("tool", text, tool_call_id=item.call_id)
    if kind != "message":
        known = "message, function_call, function_call_output or reasoning"
        message = f"{where}.type: expected {known}, got {kind[:40]!r}; nothing else is supported"
        raise unsupported(f"{where}.type", message)
    if item.role not in ("user", "system", "developer"):
        came = f"expected user, system, developer or assistant, got {str(item.role)[:40]!r}"
        raise invalid(f"{where}.role", f"{where}.role: {came}")
    return Message(item.role, _text(item.content, f"{where}.content"))


def _call(item: Item, where: str) -> ToolCall:
    if not item.name:
        raise invalid(f"{where}.name", f"{where}.name: this field is required", "missing_field")
    function = FunctionCall(item.name, item.arguments or "{}")
    return ToolCall(function, item.call_id or item.id, "function")


def _thought(item: Item, where: str) -> str:
    content = item.content or item.summary
    return _text(content if content is not None else "", f"{where}.content")


def _text(content: Any, where: str) -> str:
    """The text of a text, or of parts that are text."""
    if isinstance(content, str):
        return content
    try:
        parts = msgspec.convert(content, list[Content], from_attributes=True)
    except msgspec.ValidationError as error:
        raise invalid(where, f"{where}: expected a text or parts that are text") from error
    texts = []
    for place, part in enumerate(parts):
        text = part.refusal if part.type == "refusal" else part.text
        if not part.type.endswith(("text", "refusal")):
            message = f"expected text, got {part.type[:40]!r}; only text is supported"
            raise unsupported(f"{where}[{place}].type", f"{where}[{place}].type: {message}")
        if text is None:
            missing = f"{where}[{place}].text"
            raise invalid(missing, f"{missing}: this field is required", "missing_field")
        texts.append(text)
    return "\n".join(texts)


def _tools(offers: Sequence[ToolOffer] | None) -> list[ToolDefinition]:
    """The functions among the tools; what OpenAI's own servers would run is left out.

    Programs offer such tools unasked, and do without them.
    """
    return [
        ToolDefinition(FunctionDefinition(o.name, o.description, o.parameters, o.strict))
        for o in offers or ()
        if o.type == "function" and o.name is not None
    ]


def _choice(choice: Any) -> Any:
    """A tool is named beside its type, not below it."""
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name", "")}}
    return choice


def _format(text: TextOptions | None) -> ResponseFormat | None:
    if text is None or text.format is None:
        return None
    given = text.format
    if given.type != "json_schema":
        return ResponseFormat(given.type)
    schema = JsonSchemaFormat(given.name, None, given.schema, given.strict)
    return ResponseFormat("json_schema", schema)

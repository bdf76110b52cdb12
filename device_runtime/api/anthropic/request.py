"""What clients of Anthropic's API send, and the same as a conversation of OpenAI's."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from device_runtime.api.errors import invalid, unsupported
from device_runtime.api.request.body import (
    MAX_MESSAGES,
    MAX_PARTS,
    ChatRequest,
    Message,
)
from device_runtime.api.request.tool_fields import (
    MAX_TOOLS,
    FunctionCall,
    FunctionDefinition,
    ToolCall,
    ToolDefinition,
)


class Block(Struct, frozen=True):
    """A part of a message: text, a call of a tool, its result, or thoughts."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    tool_use_id: str | None = None
    content: Any = None
    is_error: bool | None = None
    thinking: str | None = None


_Blocks = Annotated[list[Block], Meta(max_length=MAX_PARTS)]


class Turn(Struct, frozen=True):
    """An entry of `messages`."""

    role: Annotated[str, Meta(extra_json_schema={"enum": ["user", "assistant", "system"]})]
    content: str | _Blocks


class ToolOffer(Struct, frozen=True):
    """An entry of `tools`. Those that Anthropic's own servers run have a `type` and no schema."""

    name: str
    description: str | None = None
    input_schema: Any = None
    type: str | None = None


class ToolChoice(Struct, frozen=True):
    """Whether tools must be called."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct, frozen=True):
    """Whether the model is to think; how much it does is its own affair."""

    type: str
    budget_tokens: int | None = None


class CountRequest(Struct, frozen=True, kw_only=True):
    """The body of POST /v1/messages/count_tokens."""

    model: str | None = None
    messages: Annotated[list[Turn], Meta(min_length=1, max_length=MAX_MESSAGES)]
    system: str | _Blocks | None = None
    tools: Annotated[list[ToolOffer], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None


class MessagesRequest(CountRequest, frozen=True, kw_only=True):
    """The body of POST /v1/messages."""

    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    stop_sequences: list[Annotated[str, Meta(min_length=1)]] | None = None
    stream: bool | None = None


def chat_of(request: CountRequest) -> ChatRequest:
    """The same in OpenAI's words.

    Raises:
        ApiError: 400, something that is not text, calls or results.
    """
    thinks = None if request.thinking is None else request.thinking.type != "disabled"
    variables = None if thinks is None else {"enable_thinking": thinks}
    chat = ChatRequest(
        model=request.model,
        messages=list(_messages(request)),
        tools=_tools(request.tools) or None,
        tool_choice=_choice(request.tool_choice),
        parallel_tool_calls=_is_parallel(request.tool_choice),
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
    )


def _messages(request: CountRequest) -> Iterator[Message]:
    if request.system is not None:
        yield Message("system", _text(request.system, "system"))
    for place, turn in enumerate(request.messages):
        where = f"messages[{place}]"
        if turn.role not in ("user", "assistant", "system"):
            came = f"expected user or assistant, got {turn.role[:40]!r}"
            raise invalid(f"{where}.role", f"{where}.role: {came}")
        if isinstance(turn.content, str):
            yield Message(turn.role, turn.content)
        elif turn.role == "assistant":
            yield _said(turn.content, f"{where}.content")
        else:
            yield from _asked(turn.role, turn.content, f"{where}.content")


def _said(blocks: Sequence[Block], where: str) -> Message:
    """An earlier answer: words, thoughts and calls."""
    words, thoughts, calls = [], [], []
    for place, block in enumerate(blocks):
        match block.type:
            case "text":
                words.append(_text_of(block, f"{where}[{place}]"))
            case "thinking":
                thoughts.append(block.thinking or "")
            case "redacted_thinking":
                continue
            case "tool_use":
                name, arguments = block.name or "", block.input or {}
                calls.append(ToolCall(FunctionCall(name, arguments), block.id, "function"))
            case other:
                raise _unknown(other, f"{where}[{place}]", "text, thinking or tool_use")
    return Message(
        "assistant",
        "\n".join(words),
        reasoning="\n".join(thoughts) if thoughts else None,
        tool_calls=calls or None,
    )


def _asked(role: str, blocks: Sequence[Block], where: str) -> Iterator[Message]:
    """What the user says: results of tools, in their order, and words."""
    words: list[str] = []
    for place, block in enumerate(blocks):
        match block.type:
            case "text":
                words.append(_text_of(block, f"{where}[{place}]"))
            case "tool_result":
                content = block.content if block.content is not None else ""
                result = _text(content, f"{where}[{place}].content")
                if block.is_error:
                    result = f"Error: {result}"
                yield Message("tool", result, tool_call_id=block.tool_use_id)
            case other:
                raise _unknown(other, f"{where}[{place}]", "text or tool_result")
    if words:
        yield Message(role, "\n".join(words))


def _text(content: Any, where: str) -> str:
    """The text of a text, or of blocks of text."""
    if isinstance(content, str):
        return content
    try:
        blocks = msgspec.convert(content, list[Block], from_attributes=True)
    except msgspec.ValidationError as error:
        raise invalid(where, f"{where}: expected a text or blocks of text") from error
    for place, block in enumerate(blocks):
        if block.type != "text":
            raise _unknown(block.type, f"{where}[{place}]", "text")
    texts = [_text_of(block, f"{where}[{place}]") for place, block in enumerate(blocks)]
    return "\n".join(texts)


def _text_of(block: Block, where: str) -> str:
    if block.text is None:
        raise invalid(f"{where}.text", f"{where}.text: this field is required", "missing_field")
    return block.text


def _unknown(kind: str, where: str, known: str) -> Exception:
    message = f"{where}.type: expected {known}, got {kind[:40]!r}; nothing else is supported"
    return unsupported(f"{where}.type", message)


def _tools(offers: Sequence[ToolOffer] | None) -> list[ToolDefinition]:
    tools = []
    for place, offer in enumerate(offers or ()):
        if offer.type not in (None, "custom"):
            where = f"tools[{place}].type"
            message = f"{where}: {offer.type[:40]!r} is run by Anthropic's servers, not here"
            raise unsupported(where, message)
        function = FunctionDefinition(offer.name, offer.description, offer.input_schema)
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

"""Turns of blocks as the chat API's messages: each result of a tool is a message of its own."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from device_runtime.api.anthropic.request import Block, CountRequest
from device_runtime.api.errors import invalid, unsupported
from device_runtime.api.request.body import Message
from device_runtime.api.request.tool_fields import FunctionCall, ToolCall


def messages_of(request: CountRequest, folds_system: bool = False) -> list[Message]:
    """The conversation; turns of one side that follow each other are one.

    `folds_system`: what the system says between turns becomes the user's.

    Raises:
        ApiError: 400, something that is not text, calls or results.
    """
    return _joined(_messages(request, folds_system))


def _messages(request: CountRequest, folds_system: bool) -> Iterator[Message]:
    if request.system is not None and (system := _text(request.system, "system")):
        yield Message("system", system)
    for place, turn in enumerate(request.messages):
        where = f"messages[{place}]"
        if turn.role not in ("user", "assistant", "system"):
            came = f"expected user or assistant, got {turn.role[:40]!r}"
            raise invalid(f"{where}.role", f"{where}.role: {came}")
        role = "user" if folds_system and turn.role == "system" else turn.role
        if isinstance(turn.content, str):
            yield Message(role, turn.content)
        elif turn.role == "assistant":
            yield _said(turn.content, f"{where}.content")
        else:
            yield from _asked(role, turn.content, f"{where}.content")


def _joined(messages: Iterable[Message]) -> list[Message]:
    """Templates that want sides to take turns refuse two turns of one."""
    joined: list[Message] = []
    for message in messages:
        before = joined[-1] if joined else None
        if before is not None and before.role == message.role != "tool":
            joined[-1] = Message(
                message.role,
                _lines(before.content, message.content),
                reasoning=_lines(before.reasoning, message.reasoning),
                tool_calls=[*(before.tool_calls or ()), *(message.tool_calls or ())] or None,
            )
        else:
            joined.append(message)
    return joined


def _lines(*texts: Any) -> str | None:
    return "\n".join(filter(None, texts)) if any(text is not None for text in texts) else None


def _said(blocks: Sequence[Block], where: str) -> Message:
    """An earlier answer: words, thoughts and calls."""
    words, thoughts, calls = [], [], []
    for place, block in enumerate(blocks):
        at = f"{where}[{place}]"
        match block.type:
            case "text":
                words.append(_required(block.text, f"{at}.text"))
            case "thinking":
                thoughts.append(block.thinking or "")
            case "redacted_thinking":
                continue
            case "tool_use":
                calls.append(_call(block, at))
            case other:
                raise _unknown(other, at, "text, thinking or tool_use")
    return Message(
        "assistant",
        "\n".join(words),
        reasoning="\n".join(thoughts) if thoughts else None,
        tool_calls=calls or None,
    )


def _call(block: Block, where: str) -> ToolCall:
    name = _required(block.name, f"{where}.name")
    arguments = {} if block.input is None else block.input
    if not isinstance(arguments, dict):
        where = f"{where}.input"
        raise invalid(where, f"{where}: expected an object, got {type(arguments).__name__}")
    return ToolCall(FunctionCall(name, arguments), block.id, "function")


def _asked(role: str, blocks: Sequence[Block], where: str) -> Iterator[Message]:
    """What the user says: results of tools, in their order, and words."""
    words: list[str] = []
    for place, block in enumerate(blocks):
        at = f"{where}[{place}]"
        match block.type:
            case "text":
                words.append(_required(block.text, f"{at}.text"))
            case "tool_result":
                content = block.content if block.content is not None else ""
                result = _text(content, f"{at}.content")
                if block.is_error:
                    result = f"Error: {result}"
                named = _required(block.tool_use_id, f"{at}.tool_use_id")
                yield Message("tool", result, tool_call_id=named)
            case other:
                raise _unknown(other, at, "text or tool_result")
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
    texts = enumerate(block.text for block in blocks)
    return "\n".join(_required(text, f"{where}[{place}].text") for place, text in texts)


def _required(text: str | None, where: str) -> str:
    if text is None:
        raise invalid(where, f"{where}: this field is required", "missing_field")
    return text


def _unknown(kind: str, where: str, known: str) -> Exception:
    message = f"{where}.type: expected {known}, got {kind[:40]!r}; nothing else is supported"
    return unsupported(f"{where}.type", message)

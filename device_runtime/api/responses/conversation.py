"""Items as messages of a conversation, as templates know it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from device_runtime.api.errors import ApiError, invalid, unsupported
from device_runtime.api.request.body import Message
from device_runtime.api.request.json_body import json_within
from device_runtime.api.request.tool_fields import FunctionCall, ToolCall
from device_runtime.api.responses.request import Content, Item

_CALLS = frozenset({"function_call", "custom_tool_call"})
_RESULTS = frozenset({"function_call_output", "custom_tool_call_output"})
_SYSTEM = frozenset({"system", "developer"})
_TEXTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})


@dataclass(frozen=True, slots=True)
class Placed:
    """An item, and the field of the request that it came by."""

    item: Item
    where: str


def placed(earlier: Sequence[Item], given: str | Sequence[Item] | None) -> Iterator[Placed]:
    """All items of a conversation: those of the earlier response first, and then the input's."""
    for item in earlier:
        yield Placed(item, "previous_response_id")
    if isinstance(given, str):
        yield Placed(Item(role="user", content=given), "input")
    else:
        for place, item in enumerate(given or ()):
            yield Placed(item, f"input[{place}]")


def messages_of(instructions: str | None, items: Sequence[Placed]) -> list[Message]:
    """The conversation; what the system says at its beginning is one message.

    Raises:
        ApiError: 400, something that is not text, a call or a result; or nothing was said.
    """
    messages = list(_messages(items))
    if not messages and not instructions:
        raise invalid("input", "input: this field is required", code="missing_field")
    num_first = next(
        (place for place, each in enumerate(messages) if each.role not in _SYSTEM), len(messages)
    )
    # Many templates take one message of the system, and it has to be the first.
    said = [instructions or "", *(str(message.content) for message in messages[:num_first])]
    words = "\n\n".join(text for text in said if text)
    first = [Message("system", words)] if words else []
    return first + messages[num_first:]


def _messages(items: Sequence[Placed]) -> Iterator[Message]:
    """Messages, with neighbouring thoughts, words and calls of one answer in one."""
    said = _Answer()
    called: set[str] = set()
    for each in items:
        item, kind = each.item, each.item.kind
        if kind == "reasoning":
            yield from said.take_if(said.words or said.calls)
            said.thoughts.append(_thought(item, each.where))
        elif kind in _CALLS:
            call = _call(item, each.where)
            called.add(call.id or "")
            said.calls.append(call)
        elif kind == "message" and item.role == "assistant":
            yield from said.take_if(said.words or said.calls)
            said.words.append(_text(item.content, f"{each.where}.content"))
        else:
            yield from said.take_if(True)
            yield _result(item, each.where, called) if kind in _RESULTS else _turn(item, each.where)
    yield from said.take_if(True)


class _Answer:
    """What is known of an earlier answer, item by item."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.thoughts: list[str] = []
        self.calls: list[ToolCall] = []

    def take_if(self, is_over: object) -> Iterator[Message]:
        """The message, if there is one and it is over; the next begins anew."""
        if not is_over:
            return
        if self.words or self.calls:
            thoughts = "\n".join(filter(None, self.thoughts))
            yield Message(
                "assistant",
                "\n".join(self.words),
                reasoning=thoughts or None,
                tool_calls=list(self.calls) or None,
            )
        self.words, self.thoughts, self.calls = [], [], []


def _turn(item: Item, where: str) -> Message:
    if item.kind != "message":
        known = (
            "message, function_call, function_call_output, custom_tool_call, "
            "custom_tool_call_output, reasoning or item_reference"
        )
        message = f"{where}.type: expected {known}, got {item.kind[:40]!r}"
        raise unsupported(f"{where}.type", message)
    if item.role not in ("user", "system", "developer"):
        came = f"expected user, system, developer or assistant, got {str(item.role)[:40]!r}"
        raise invalid(f"{where}.role", f"{where}.role: {came}")
    return Message(item.role, _text(item.content, f"{where}.content"))


def _result(item: Item, where: str, called: set[str]) -> Message:
    if not item.call_id:
        raise _missing(f"{where}.call_id")
    if item.call_id not in called:
        expected = "expected the call_id of a call that stands before its result"
        message = f"{where}.call_id: {expected}, got {item.call_id[:80]!r}"
        raise invalid(f"{where}.call_id", message)
    return Message("tool", _text(item.output, f"{where}.output"), tool_call_id=item.call_id)


def _call(item: Item, where: str) -> ToolCall:
    call_id = item.call_id or item.id
    if not call_id:
        raise _missing(f"{where}.call_id")
    if not item.name:
        raise _missing(f"{where}.name")
    if item.kind == "custom_tool_call":
        arguments: Any = {"input": item.input or ""}
    else:
        arguments = _arguments(item.arguments or "{}", f"{where}.arguments")
    return ToolCall(FunctionCall(item.name, arguments), call_id, "function")


def _arguments(text: str, where: str) -> dict[str, Any]:
    try:
        value = json_within(text)
    except ValueError as error:
        raise invalid(where, f"{where}: expected a JSON object as a text: {error}") from error
    if not isinstance(value, dict):
        raise invalid(where, f"{where}: expected a JSON object as a text")
    return value


def _thought(item: Item, where: str) -> str:
    if item.content:
        return _text(item.content, f"{where}.content")
    return _text(item.summary or "", f"{where}.summary")


def _text(content: Any, where: str) -> str:
    """The text of a text, or of parts that are text."""
    if content is None:
        raise _missing(where)
    if isinstance(content, str):
        return content
    try:
        parts = msgspec.convert(content, list[Content], from_attributes=True)
    except msgspec.ValidationError as error:
        raise invalid(where, f"{where}: expected a text or parts that are text") from error
    return "\n".join(_part_text(part, f"{where}[{place}]") for place, part in enumerate(parts))


def _part_text(part: Content, where: str) -> str:
    if part.type == "refusal":
        text, name = part.refusal, "refusal"
    elif part.type in _TEXTS:
        text, name = part.text, "text"
    else:
        message = f"expected text, got {part.type[:40]!r}; only text is supported"
        raise unsupported(f"{where}.type", f"{where}.type: {message}")
    if text is None:
        raise _missing(f"{where}.{name}")
    return text


def _missing(where: str) -> ApiError:
    return invalid(where, f"{where}: this field is required", code="missing_field")

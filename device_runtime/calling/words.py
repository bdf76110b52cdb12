"""Tools for a model whose chat template knows of none: as words of the system and of the user."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from device_runtime.calling.layouts import Layout

Message = Mapping[str, Any]

_RESULT = "<tool_response>\n{}\n</tool_response>"


def told_in_words(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    layout: Layout,
    has_system: bool = True,
) -> list[dict[str, Any]]:
    """The conversation without calls and results, which become text, and with the tools told.

    Results are the user's, together with what the user says behind them: many templates want the
    user and the assistant to take turns.

    Args:
        messages: As templates know them.
        tools: As OpenAI's API has them; none: nothing is told.
        layout: How the model is to write calls.
        has_system: Whether the template lets the system speak; else the user's first words tell.
    """
    told: list[dict[str, Any]] = []
    is_result = False
    for message in messages:
        plain = _as_text(message, layout)
        if is_result and plain["role"] == "user":
            told[-1]["content"] = _joined(told[-1]["content"], plain["content"], "\n")
        else:
            told.append(plain)
        is_result = message["role"] == "tool"
    if not tools:
        return told
    words = _instructions(tools, layout)
    teller = "system" if has_system else "user"
    if told and told[0]["role"] == teller:
        first = told[0]["content"]
        content = _joined(first, words) if has_system else _joined(words, first)
        return [{**told[0], "content": content}, *told[1:]]
    return [{"role": teller, "content": words}, *told]


def _as_text(message: Message, layout: Layout) -> dict[str, Any]:
    plain = {name: value for name, value in message.items() if name != "tool_calls"}
    if message["role"] == "tool":
        return {"role": "user", "content": _RESULT.format(_text(message["content"]))}
    if calls := message.get("tool_calls"):
        functions = [call["function"] for call in calls]
        written = layout.written([(each["name"], each["arguments"]) for each in functions])
        plain["content"] = _joined(plain["content"], written)
    return plain


def _instructions(tools: Sequence[Mapping[str, Any]], layout: Layout) -> str:
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    marks = layout.marks
    arguments = "{ARGUMENTS}" if marks is None else "VALUE".join(marks.around("ARGUMENT"))
    example = f"{layout.opening}{layout.head('NAME')}{arguments}{layout.tail}"
    return (
        "You may call these tools; each is given by its name, what it does, and a JSON schema of "
        f"its arguments:\n<tools>\n{listed}\n</tools>\n"
        "To call one, answer with nothing but its name and its arguments as a JSON object:\n"
        f"{layout.begin}{example}{layout.end}\n"
        "Results come in <tool_response>. If no tool is of use, answer in plain words."
    )


def _joined(
    content: str | Sequence[Mapping[str, Any]],
    other: str | Sequence[Mapping[str, Any]],
    between: str = "\n\n",
) -> str:
    return between.join(text for text in (_text(content), _text(other)) if text)


def _text(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content)

"""Tools for a model whose chat template knows of none: as words of the system and of the user."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from device_runtime.calling.layouts import Layout

Message = Mapping[str, Any]

_RESULT = "<tool_response>\n{}\n</tool_response>"


def told_in_words(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], layout: Layout
) -> list[dict[str, Any]]:
    """The conversation without calls and results, which become text, and with the tools told.

    Args:
        messages: As templates know them.
        tools: As OpenAI's API has them; none: nothing is told.
        layout: How the model is to write calls.
    """
    told = [_as_text(message, layout) for message in messages]
    if not tools:
        return told
    words = _instructions(tools, layout)
    if told and told[0]["role"] == "system":
        return [{**told[0], "content": _behind(told[0]["content"], words)}, *told[1:]]
    return [{"role": "system", "content": words}, *told]


def _as_text(message: Message, layout: Layout) -> dict[str, Any]:
    plain = {name: value for name, value in message.items() if name != "tool_calls"}
    if message["role"] == "tool":
        return {"role": "user", "content": _RESULT.format(_text(message["content"]))}
    if calls := message.get("tool_calls"):
        plain["content"] = _behind(plain["content"], _written(calls, layout))
    return plain


def _written(calls: Sequence[Mapping[str, Any]], layout: Layout) -> str:
    """Calls as the model would have written them."""
    texts = []
    for call in calls:
        function = call["function"]
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        texts.append(f"{layout.head(function['name'])}{arguments}{layout.tail}")
    between = layout.between if layout.between is not None else "\n"
    return f"{layout.begin}{between.join(texts)}{layout.end}"


def _instructions(tools: Sequence[Mapping[str, Any]], layout: Layout) -> str:
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    example = f"{layout.head('NAME')}{{ARGUMENTS}}{layout.tail}"
    return (
        "You may call these tools; each is given by its name, what it does, and a JSON schema of "
        f"its arguments:\n<tools>\n{listed}\n</tools>\n"
        "To call one, answer with nothing but its name and its arguments as a JSON object:\n"
        f"{layout.begin}{example}{layout.end}\n"
        "Results come in <tool_response>. If no tool is of use, answer in plain words."
    )


def _behind(content: str | Sequence[Mapping[str, Any]], words: str) -> str:
    text = _text(content)
    return f"{text}\n\n{words}" if text else words


def _text(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content)

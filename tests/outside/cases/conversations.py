"""Conversations as clients of OpenAI's API send them, each with something out of the ordinary."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

Body = Mapping[str, Any]

_QUESTION = {"role": "user", "content": "How do I kill a process?"}
_TERSE = {"role": "system", "content": "You are terse."}
_ANSWER = {"role": "assistant", "content": "With `kill`."}
_NEXT = {"role": "user", "content": "And all of them?"}

_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a place, now or soon.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": 'Where, e.g. "Köln"'},
                "days": {"type": "integer", "enum": [1, 2, 3]},
            },
            "required": ["city"],
        },
    },
}
_CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "What time it is.",
        "parameters": {"type": "object", "properties": {}},
    },
}
_TOOLS = [_WEATHER, _CLOCK]
_ASKED = {"role": "user", "content": "What is the weather in Köln?"}


def _call(number: int, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` is the object: what is sent is its JSON, as OpenAI's API has it."""
    function = {"name": name, "arguments": arguments}
    return {"id": f"call0000{number}", "type": "function", "function": function}


def _result(number: int, content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call0000{number}", "content": content}


def _parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


_KOLN = _call(1, "get_weather", {"city": 'Köln "Nord" <b>', "days": 2})

CONVERSATIONS: Mapping[str, Body] = MappingProxyType(
    {
        "user": {"messages": [_QUESTION]},
        "system": {"messages": [_TERSE, _QUESTION]},
        "turns": {"messages": [_QUESTION, _ANSWER, _NEXT]},
        "system and turns": {"messages": [_TERSE, _QUESTION, _ANSWER, _NEXT, _ANSWER, _NEXT]},
        "users in a row": {"messages": [_TERSE, _QUESTION, _NEXT]},
        "empty system": {"messages": [{"role": "system", "content": ""}, _QUESTION]},
        "system in the middle": {"messages": [_QUESTION, _ANSWER, _TERSE, _NEXT]},
        "unicode and HTML": {
            "messages": [{"role": "user", "content": "你好 👩‍👩‍👧 <b>&amp;</b> \u202eabc \u00a0é"}]
        },
        "white space at the edges": {
            "messages": [
                {"role": "system", "content": "\n Be terse. \n"},
                {"role": "user", "content": "  How?\n\n"},
                {"role": "assistant", "content": " So.\n"},
                {"role": "user", "content": "\tAnd?  "},
            ]
        },
        "developer": {"messages": [{"role": "developer", "content": "You are terse."}, _QUESTION]},
        "names": {"messages": [{**_TERSE, "name": "boss"}, {**_QUESTION, "name": "ann"}]},
        "parts of the user": {
            "messages": [_TERSE, {"role": "user", "content": _parts("How do I", "kill it?")}]
        },
        "parts of all": {
            "messages": [
                {"role": "system", "content": _parts("You are terse.")},
                {"role": "user", "content": _parts("How?")},
                {"role": "assistant", "content": _parts("With `kill`.")},
                {"role": "user", "content": _parts("And all?")},
            ]
        },
        "null content": {"messages": [_QUESTION, {"role": "assistant", "content": None}, _NEXT]},
        "thoughts": {
            "messages": [_QUESTION, {**_ANSWER, "reasoning_content": "Signals do it."}, _NEXT]
        },
        "thinking on": {"messages": [_QUESTION], "chat_template_kwargs": {"enable_thinking": True}},
        "thinking off": {
            "messages": [_TERSE, _QUESTION],
            "chat_template_kwargs": {"enable_thinking": False},
        },
        "reasoning effort": {"messages": [_TERSE, _QUESTION], "reasoning_effort": "high"},
        "no turn opened": {
            "messages": [_TERSE, _QUESTION, _ANSWER],
            "add_generation_prompt": False,
        },
        "last message goes on": {
            "messages": [_TERSE, _QUESTION, {"role": "assistant", "content": "With the"}],
            "continue_final_message": True,
        },
        "tools offered": {"messages": [_TERSE, _ASKED], "tools": _TOOLS},
        "call and result": {
            "messages": [
                _ASKED,
                {"role": "assistant", "content": "", "tool_calls": [_KOLN]},
                _result(1, '{"degrees": 7, "sky": "grau"}'),
            ],
            "tools": _TOOLS,
        },
        "calls, null content": {
            "messages": [
                _TERSE,
                _ASKED,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [_KOLN, _call(2, "clock", {})],
                },
                _result(1, "7 degrees"),
                _result(2, "12:00"),
                {"role": "assistant", "content": "7 degrees at noon."},
                _NEXT,
            ],
            "tools": _TOOLS,
        },
        "thoughts, words and a call": {
            "messages": [
                _ASKED,
                {
                    "role": "assistant",
                    "content": "Let me see.",
                    "reasoning_content": "The tool knows.",
                    "tool_calls": [_KOLN],
                },
                _result(1, "7 degrees"),
            ],
            "tools": [_WEATHER],
        },
    }
)
"""By what is out of the ordinary."""

"""How a chat template tells of tools and writes calls, found by asking it.

Names in a template's source say little: many know the word `tools`, and leave out what was called.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from device_runtime.calling.layouts import GENERIC, LAYOUTS, Layout
from device_runtime.text.chat_template import ChatTemplate, ChatTemplateError

# No words that a template would write.
_NAME, _RESULT, _SYSTEM = "qxzhatcall", "qxzhatresult", "qxzhatsystem"
_VALUES = {"place": "qxzhatplace", "days": 7}
_SCHEMA = {
    "type": "object",
    "properties": {
        "place": {"type": "string", "description": "a place"},
        "days": {"type": "integer", "description": "a number"},
    },
    "required": ["place", "days"],
}
_TOOL = {"name": _NAME, "description": "a tool", "parameters": _SCHEMA}
_TOLD = ({"type": "function", "function": _TOOL},)
_ASKED: tuple[Mapping[str, Any], ...] = ({"role": "user", "content": "hello"},)
_ID = "qxzhat001"

ArgumentsForm = Literal["object", "text"]
"""How a template wants a call's arguments: most write them as JSON, some take JSON as a text."""


@dataclass(frozen=True, slots=True)
class Telling:
    """How a model is told of tools, calls and results.

    `by_template` None: in words, by the system if the template lets it speak, else by the user.
    """

    by_template: ArgumentsForm | None = None
    has_system: bool = True


IN_WORDS = Telling()


def find_calls(template: ChatTemplate) -> tuple[Layout, Telling]:
    """How the model writes calls, and how it is told of them.

    A template that leaves out tools, calls or results, or writes calls as none of the layouts
    has them, is not asked to: all is told in words.
    """
    if template.is_plain:
        return GENERIC, IN_WORDS
    forms: tuple[ArgumentsForm, ...] = ("object", "text")
    for form in forms:
        text = _rendered(template, _conversation(form), _TOLD)
        if text is None or text.count(_NAME) < 2 or _RESULT not in text:
            continue
        for layout in LAYOUTS.values():
            found = re.search(layout.pattern(_NAME, _VALUES), text)
            if found and (layout.begin or _is_answer(template, text[: found.start()])):
                return layout, Telling(form)
    system: list[Mapping[str, Any]] = [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": "hello"},
    ]
    return GENERIC, Telling(None, _SYSTEM in (_rendered(template, system, ()) or ""))


def _is_answer(template: ChatTemplate, before: str) -> bool:
    """Whether what is written here begins an answer: else a mark stands before it."""
    return before.rstrip() == (_rendered(template, _ASKED, _TOLD) or "").rstrip()


def _conversation(form: ArgumentsForm) -> list[Mapping[str, Any]]:
    arguments = _VALUES if form == "object" else json.dumps(_VALUES)
    function = {"name": _NAME, "arguments": arguments}
    call = {"type": "function", "id": _ID, "function": function}
    return [
        *_ASKED,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": _ID, "content": _RESULT},
    ]


def _rendered(
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
) -> str | None:
    try:
        return template.render(messages, tools=tools).text
    except ChatTemplateError:
        return None

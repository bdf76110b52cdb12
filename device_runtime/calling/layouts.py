"""How models write calls, by family: the marks around names and arguments.

Sources: the chat templates that come with the models, and what their makers document.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from device_runtime.calling.parameters import written_parameters

OWN_ID = "[a-zA-Z0-9]{9}"
"""An id that a model writes into its call. Clients are given another: its own may come twice."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A run of calls is `begin`, `opening`, calls with `between` between them, and `end`.

    A call is its head with the tool's name, its arguments, and `tail`. Who writes `begin` has
    begun a call, and everything behind it follows.
    """

    name: str
    begin: str
    before_name: str
    after_name: str
    tail: str
    between: str | None
    """None: an answer holds one call."""
    end: str
    opening: str = ""
    arguments: Literal["json", "xml"] = "json"
    """xml: a `<parameter=NAME>` for each, with what it is as plain text."""
    id_behind_name: tuple[str, str] | None = None
    id_behind_arguments: tuple[str, str] | None = None
    """What stands around an id of the model's own, which may be there or not."""
    id_prefix: str = "call_"
    id_digits: int = 24

    def head(self, name: str) -> str:
        """Of a call of the tool of this name."""
        return f"{self._named(name)}{self.after_name}"

    def head_pattern(self, name: str) -> str:
        """A regular expression of the head, with an id or without."""
        own_id = id_pattern(self.id_behind_name)
        return re.escape(self._named(name)) + own_id + re.escape(self.after_name)

    def written(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        """Calls as the model writes them."""
        between = self.between if self.between is not None else "\n"
        texts = (f"{self.head(name)}{self._shown(values)}{self.tail}" for name, values in calls)
        return f"{self.begin}{self.opening}{between.join(texts)}{self.end}"

    def pattern(self, name: str, values: Mapping[str, Any]) -> str:
        """A regular expression of one call, with the model's own ids or without."""
        return (
            re.escape(self.begin + self.opening)
            + self.head_pattern(name)
            + re.escape(self._shown(values))
            + id_pattern(self.id_behind_arguments)
            + re.escape(self.tail + self.end)
        )

    def _named(self, name: str) -> str:
        shown = json.dumps(name)[1:-1] if self.before_name.endswith('"') else name
        return f"{self.before_name}{shown}"

    def _shown(self, values: Mapping[str, Any]) -> str:
        if self.arguments == "xml":
            return written_parameters(values)
        return json.dumps(values, ensure_ascii=False)


def id_pattern(around: tuple[str, str] | None) -> str:
    """A regular expression of a model's own id between these texts, or of nothing."""
    if around is None:
        return ""
    before, behind = map(re.escape, around)
    return f"(?:{before}{OWN_ID}{behind})?"


HERMES = Layout(
    name="hermes",
    begin="<tool_call>",
    before_name='\n{"name": "',
    after_name='", "arguments": ',
    tail="}",
    between="\n</tool_call>\n<tool_call>",
    end="\n</tool_call>",
)
"""Hermes 2 and later, Qwen2.5, Qwen3, QwQ, SmolLM3, Granite 4."""

QWEN3_CODER = Layout(
    name="qwen3-coder",
    begin="<tool_call>",
    before_name="\n<function=",
    after_name=">\n",
    tail="</function>",
    between="\n</tool_call>\n<tool_call>",
    end="\n</tool_call>",
    arguments="xml",
)
"""Qwen3-Coder, Qwen3.5 and later, Nemotron 3."""

LLAMA3 = Layout(
    name="llama3",
    begin="",
    before_name='{"name": "',
    after_name='", "parameters": ',
    tail="}",
    between=None,
    end="",
)
"""Llama 3.1 and later, with calls as JSON and no mark before them."""

MISTRAL = Layout(
    name="mistral",
    begin="[TOOL_CALLS]",
    opening=" [",
    before_name='{"name": "',
    after_name='", "arguments": ',
    id_behind_arguments=(', "id": "', '"'),
    tail="}",
    between=", ",
    end="]",
    id_prefix="",
    id_digits=9,
)
"""Mistral's tokenizers 1 to 3; the templates want ids of nine letters and digits."""

MISTRAL_TEKKEN = replace(MISTRAL, name="mistral-tekken", opening="[")
"""The same with the tokenizer that puts no space before words: Mistral Nemo and later."""

MISTRAL_ARGS = Layout(
    name="mistral-args",
    begin="[TOOL_CALLS]",
    before_name="",
    id_behind_name=("[CALL_ID]", ""),
    after_name="[ARGS]",
    tail="",
    between="[TOOL_CALLS]",
    end="",
    id_prefix="",
    id_digits=9,
)
"""Mistral's tokenizers from version 11 on."""

GENERIC = Layout(
    name="generic",
    begin="<tool_call>",
    opening="[",
    before_name='{"name": "',
    after_name='", "arguments": ',
    tail="}",
    between=", ",
    end="]</tool_call>",
)
"""SmolLM2, and models whose template knows of no tools: they are told in the system's words."""

LAYOUTS = {
    layout.name: layout
    for layout in (
        HERMES,
        QWEN3_CODER,
        LLAMA3,
        MISTRAL,
        MISTRAL_TEKKEN,
        MISTRAL_ARGS,
        GENERIC,
    )
}

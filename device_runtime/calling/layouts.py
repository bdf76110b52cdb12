"""How models write calls, by family: the marks around names and arguments.

Sources: the chat templates that come with the models, and what their makers document.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from device_runtime.calling.parameters import GLM_LINES, GLM_TIGHT, PYTHON, XML, Marks

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
    marks: Marks | None = None
    """Around each argument; None: they are one object of JSON."""
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
        # A name that nothing stands behind may be the beginning of another's, up to the next mark.
        behind = re.escape(self.after_name) or "(?=<)"
        return re.escape(self._named(name)) + own_id + behind

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
            + self._shown_pattern(values)
            + id_pattern(self.id_behind_arguments)
            + re.escape(self.tail)
            + r"\s*"
            + re.escape(self.end)
        )

    def _named(self, name: str) -> str:
        shown = json.dumps(name)[1:-1] if self.before_name.endswith('"') else name
        return f"{self.before_name}{shown}"

    def _shown_pattern(self, values: Mapping[str, Any]) -> str:
        if self.marks is None or self.marks.is_plain:
            return re.escape(self._shown(values))
        # Templates that write calls as Python does put quotes around all values, or around none.
        named = {f"{name}{self.marks.named}": str(value) for name, value in values.items()}
        texts = (f'{re.escape(name)}"?{re.escape(value)}"?' for name, value in named.items())
        return re.escape(self.marks.between).join(texts)

    def _shown(self, values: Mapping[str, Any]) -> str:
        if self.marks is not None:
            return self.marks.written(values)
        return json.dumps(values, ensure_ascii=False)


def id_pattern(around: tuple[str, str] | None) -> str:
    """A regular expression of a model's own id between these texts, or of nothing."""
    if around is None:
        return ""
    before, behind = map(re.escape, around)
    return f"(?:{before}{OWN_ID}{behind})?"


def _deepseek(words: str) -> str:
    """A token of control, as DeepSeek's tokenizers name them."""
    return f"<\uff5c{words}\uff5c>".replace(" ", "\u2581")


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
    marks=XML,
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

_CALL, _SEP, _CALL_END = map(_deepseek, ("tool call begin", "tool sep", "tool call end"))

DEEPSEEK_V3 = Layout(
    name="deepseek-v3",
    begin=_deepseek("tool calls begin"),
    opening=_CALL,
    before_name=f"function{_SEP}",
    after_name="\n```json\n",
    tail=f"\n```{_CALL_END}",
    between=f"\n{_CALL}",
    end=_deepseek("tool calls end"),
)
"""DeepSeek V3 and R1, and what was distilled from it."""

DEEPSEEK_V31 = replace(
    DEEPSEEK_V3,
    name="deepseek-v3.1",
    before_name="",
    after_name=_SEP,
    tail=_CALL_END,
    between=_CALL,
)
"""DeepSeek V3.1: no type of a call and no fence around its arguments."""

FUNCTIONARY = Layout(
    name="functionary",
    begin="<function=",
    before_name="",
    after_name=">",
    tail="</function>",
    between="<function=",
    end="",
)
"""Functionary v3.1, and Llama 3.1 with tools of its user's own as Meta documents them."""

GLM_45 = Layout(
    name="glm-4.5",
    begin="<tool_call>",
    before_name="",
    after_name="\n",
    tail="</tool_call>",
    between="\n<tool_call>",
    end="",
    marks=GLM_LINES,
)
"""GLM 4.5 and 4.6."""

GLM_47 = replace(GLM_45, name="glm-4.7", after_name="", between="<tool_call>", marks=GLM_TIGHT)
"""GLM 4.7 and later, without line breaks."""

PYTHONIC = Layout(
    name="pythonic",
    begin="",
    opening="[",
    before_name="",
    after_name="(",
    tail=")",
    between=", ",
    end="]",
    marks=PYTHON,
)
"""A list of Python's calls and no mark before it: Llama 3.2 and 4 with such templates, ToolACE."""

XLAM = Layout(
    name="xlam",
    begin="",
    opening="[",
    before_name='{"name": "',
    after_name='", "arguments": ',
    tail="}",
    between=", ",
    end="]",
)
"""A list of JSON objects and no mark before it: xLAM 2, on Llama and on Qwen."""

NEMOTRON = replace(XLAM, name="nemotron", begin="<TOOLCALL>", end="]</TOOLCALL>")
"""NVIDIA's Llama Nemotron, and Nemotron Nano 2."""

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
        DEEPSEEK_V3,
        DEEPSEEK_V31,
        FUNCTIONARY,
        GLM_45,
        GLM_47,
        PYTHONIC,
        XLAM,
        NEMOTRON,
        GENERIC,
    )
}

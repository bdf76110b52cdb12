"""How models write calls, by family: the marks around names and arguments.

Sources: the chat templates that come with the models, and what their makers document.
"""

import json
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Layout:
    """A run of calls is `begin`, calls with `between` between them, and `end`.

    A call is its head with the tool's name, its arguments, and `tail`.
    """

    name: str
    begin: str
    before_name: str
    after_name: str
    tail: str
    between: str | None
    """None: an answer holds one call."""
    end: str
    arguments: Literal["json", "xml"] = "json"
    """xml: a `<parameter=NAME>` for each, with what it is as plain text."""
    id_prefix: str = "call_"
    id_digits: int = 24

    def head(self, name: str) -> str:
        """Of a call of the tool of this name."""
        shown = json.dumps(name)[1:-1] if self.before_name.endswith('"') else name
        return f"{self.before_name}{shown}{self.after_name}"


HERMES = Layout(
    name="hermes",
    begin="<tool_call>\n",
    before_name='{"name": "',
    after_name='", "arguments": ',
    tail="}",
    between="\n</tool_call>\n<tool_call>\n",
    end="\n</tool_call>",
)
"""Hermes 2 and later, Qwen2.5, Qwen3."""

QWEN3_CODER = Layout(
    name="qwen3-coder",
    begin="<tool_call>\n",
    before_name="<function=",
    after_name=">\n",
    tail="</function>",
    between="\n</tool_call>\n<tool_call>\n",
    end="\n</tool_call>",
    arguments="xml",
)

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
    begin="[TOOL_CALLS] [",
    before_name='{"name": "',
    after_name='", "arguments": ',
    tail="}",
    between=", ",
    end="]",
    id_prefix="",
    id_digits=9,
)
"""Mistral's tokenizers 1 to 3; the templates want ids of nine letters and digits."""

MISTRAL_ARGS = Layout(
    name="mistral-args",
    begin="[TOOL_CALLS]",
    before_name="",
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
    begin="<tool_call>[",
    before_name='{"name": "',
    after_name='", "arguments": ',
    tail="}",
    between=", ",
    end="]</tool_call>",
)
"""SmolLM2, and models whose template knows of no tools: they are told in the system's words."""

LAYOUTS = {
    layout.name: layout for layout in (HERMES, QWEN3_CODER, LLAMA3, MISTRAL, MISTRAL_ARGS, GENERIC)
}

AUTO = "auto"
"""The setting that looks at the model's template."""


def layout_of(template: str | None) -> Layout:
    """How the model of this chat template writes calls; None: it has none."""
    if template is None or "tools" not in template:
        return GENERIC
    if "[TOOL_CALLS]" in template:
        return MISTRAL_ARGS if "[ARGS]" in template else MISTRAL
    if "<tool_call>" in template:
        return QWEN3_CODER if "<function=" in template else HERMES
    if '"parameters": ' in template or "<|python_tag|>" in template:
        return LLAMA3
    return GENERIC

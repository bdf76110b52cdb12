"""The marks between which a model thinks, by its chat template."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Marks:
    """Thoughts stand between them, before everything else."""

    begin: str
    end: str


THINK = Marks("<think>", "</think>")
"""DeepSeek-R1, Qwen3, QwQ, and most others."""

MISTRAL_THINK = Marks("[THINK]", "[/THINK]")
"""Magistral."""

_KNOWN = (THINK, MISTRAL_THINK)


def marks_of(template: str | None) -> Marks | None:
    """Those of the model of this chat template; None: it does not think, as far as that tells."""
    if template is None:
        return None
    return next((marks for marks in _KNOWN if marks.end in template), None)


def is_thinking(marks: Marks, prompt: str, begun: str = "") -> bool:
    """Whether an answer to this prompt begins in the middle of thoughts.

    `begun` is what the answer said already, at the end of the prompt.
    """
    if begun.strip():
        return begun.rfind(marks.begin) > begun.rfind(marks.end)
    return prompt.rstrip().endswith(marks.begin)


def has_thought(marks: Marks, prompt: str, begun: str = "") -> bool:
    """Whether the prompt has closed the thoughts of the answer already, so that there are none."""
    if begun.strip():
        return not is_thinking(marks, prompt, begun)
    return prompt.rstrip().endswith(marks.end)

"""Whole answers to conversations, with nothing of ours in the unsplit model's way to them.

Everywhere else both models get the same token ids and stop ids. Here the template, the tokenizer,
the model's own settings and the text of the answer are compared as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hat.verify.compare import Reference, first_difference
from hat.verify.prompts import BUILT_IN
from hat.verify.report import Check, counted, verdict

_SYSTEM = {"role": "system", "content": "You are terse."}
_USER = {"role": "user", "content": "How do I kill a process?"}
_CONVERSATIONS = (
    (_USER,),
    (_SYSTEM, {"role": "user", "content": "Was ist größer: π oder 3? 你好, <b>how</b>?"}),
    (_USER, {"role": "assistant", "content": "With `kill`."}, {"role": "user", "content": "Why?"}),
)
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Question:
    """Messages to answer, or of a model that has no chat template a text to go on with."""

    name: str
    asked: Sequence[Mapping[str, str]] | str

    def body(self, max_tokens: int) -> tuple[str, dict[str, Any]]:
        """Route and body of the greedy request of an OpenAI client that sets nothing else."""
        common = {"max_tokens": max_tokens, "temperature": 0, "return_token_ids": True}
        if isinstance(self.asked, str):
            return "completions", {"prompt": self.asked, **common}
        return "chat/completions", {"messages": list(self.asked), **common}


@dataclass(frozen=True, slots=True)
class ToldAnswer:
    """An endpoint's answer: the prompt's ids, the answer's, and the text of it."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    text: str | None
    """None where a part of it is told apart, as thoughts are."""


@dataclass(frozen=True, slots=True)
class OwnAnswer:
    """What transformers alone makes of a question."""

    question: Question
    prompt_ids: tuple[int, ...]
    answer: Reference
    text: str


def questions_for(has_template: bool) -> tuple[Question, ...]:
    """What a model is asked."""
    if has_template:
        return tuple(
            Question(f"conversation {number}", asked)
            for number, asked in enumerate(_CONVERSATIONS, 1)
        )
    return tuple(Question(f"text {number}", text) for number, text in enumerate(BUILT_IN[:3], 1))


def told_answer(document: Mapping[str, Any]) -> ToldAnswer:
    """Read the document that answers a request of `Question.body`."""
    [choice] = document["choices"]
    message = choice.get("message")
    prompt_ids = choice["prompt_token_ids"] if message is None else document["prompt_token_ids"]
    text = choice["text"] if message is None else message["content"] or ""
    if message is not None and message.get("reasoning_content"):
        text = None
    return ToldAnswer(tuple(prompt_ids), tuple(choice["token_ids"]), text)


def text_check(cases: Sequence[tuple[OwnAnswer, ToldAnswer]], is_exact: bool) -> Check:
    """Whether an endpoint's answers are those of transformers, from the messages to the text."""
    found = [(own, _difference(own, told)) for own, told in cases]
    wrong = tuple(f"{own.question.name}: {what}" for own, what in found if what is not None)
    num_tokens = sum(len(own.answer.ids) for own, _ in cases)
    line = f"{counted(len(cases), 'answer')} over HTTP, {counted(num_tokens, 'token')}, beside "
    line += "transformers' own template, tokenizer and settings: "
    line += f"{counted(len(wrong), 'answer')} differ" if wrong else "the same text"
    return Check("text", verdict(not wrong, is_exact), line, wrong)


def _difference(own: OwnAnswer, told: ToldAnswer) -> str | None:
    """In words, where the two part; None where they do not, or at a tie."""
    if own.prompt_ids != told.prompt_ids:
        both = zip(own.prompt_ids, told.prompt_ids, strict=False)
        place = next((i for i, (one, other) in enumerate(both) if one != other), None)
        place = min(len(own.prompt_ids), len(told.prompt_ids)) if place is None else place
        return (
            f"the prompt becomes other tokens from number {place + 1} on: unsplit "
            f"{list(own.prompt_ids[place : place + 4])}, split "
            f"{list(told.prompt_ids[place : place + 4])}"
        )
    difference = first_difference(own.answer, told.ids)
    if difference is not None:
        if difference.is_tie:
            return None
        return (
            f"token {difference.index + 1} of the answer: unsplit {difference.expected}, split "
            f"{difference.came}; margin {difference.margin:.3g}"
        )
    # The endpoint holds a character back whose last bytes never came; transformers marks it.
    ends = (own.text.rstrip(_UNFINISHED), (told.text or "").rstrip(_UNFINISHED))
    if told.text is not None and ends[0] != ends[1]:
        return f"the same tokens become {own.text!r:.60} unsplit, {told.text!r:.60} split"
    return None

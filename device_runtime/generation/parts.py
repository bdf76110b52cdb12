"""What an answer's text is made of: words, thoughts, and calls of tools."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from device_runtime.generation.request import FinishReason


@dataclass(frozen=True, slots=True)
class Words:
    """Text for whoever asked."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Text that the model wrote before its answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool, or what one grew by: then its id and name are those of its beginning.

    `arguments` is JSON, or a part of it.
    """

    index: int
    id: str
    name: str
    arguments: str
    is_begin: bool = True


Part = Words | Thought | Call

AnswerEnd = Literal["stop", "length", "tool_calls"]
"""Why an answer ended: as its generation did, or with calls that wait for their results."""


class Reader(Protocol):
    """Finds out what the text of one answer is made of, as it grows."""

    def read(self, text: str) -> Sequence[Part]:
        """What is certain by now; text that may begin a mark is held back."""
        ...

    def end(self, reason: FinishReason) -> tuple[Sequence[Part], AnswerEnd]:
        """What was held back, and why the answer ended."""
        ...


class PlainReader:
    """All of it is words."""

    def read(self, text: str) -> Sequence[Part]:
        return (Words(text),) if text else ()

    def end(self, reason: FinishReason) -> tuple[Sequence[Part], AnswerEnd]:
        return (), reason


def joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The same with neighbours of one kind, and all of a call, as one."""
    whole: list[Part] = []
    places: dict[int, int] = {}
    for part in parts:
        last = whole[-1] if whole else None
        match part:
            case Call(index=index) if index in places:
                before = whole[places[index]]
                assert isinstance(before, Call)
                whole[places[index]] = replace(before, arguments=before.arguments + part.arguments)
            case Call(index=index):
                places[index] = len(whole)
                whole.append(part)
            case Words(text) if isinstance(last, Words):
                whole[-1] = Words(last.text + text)
            case Thought(text) if isinstance(last, Thought):
                whole[-1] = Thought(last.text + text)
            case _:
                whole.append(part)
    return tuple(whole)


def overlap(text: str, mark: str) -> int:
    """How many characters at the text's end begin the mark."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0

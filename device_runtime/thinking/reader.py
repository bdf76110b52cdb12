"""Thoughts in an answer's text, as it grows; what follows them is another reader's."""

from collections.abc import Sequence

from device_runtime.generation.parts import AnswerEnd, Part, Reader, Thought, overlap
from device_runtime.generation.request import FinishReason
from device_runtime.thinking.marks import Marks


class ThoughtReader:
    """A `Reader`: thoughts if there are any, at the beginning, then whatever `inner` reads.

    `is_thinking`: the prompt ends with the mark that begins them.
    """

    def __init__(self, marks: Marks, is_thinking: bool, inner: Reader) -> None:
        self._marks = marks
        self._inner = inner
        self._is_thinking = is_thinking
        self._may_begin = not is_thinking
        self._text = ""
        self._has_begun = False
        """Whether any thought was told: white space before the first is none."""

    def read(self, text: str) -> Sequence[Part]:
        self._text += text
        parts: list[Part] = []
        if self._may_begin:
            self._look_for_beginning()
        if self._is_thinking:
            parts += self._read_thoughts()
        if not self._may_begin and not self._is_thinking and self._text:
            ready, self._text = self._text, ""
            parts += self._inner.read(ready)
        return parts

    def end(self, reason: FinishReason) -> tuple[Sequence[Part], AnswerEnd]:
        held, self._text = self._text, ""
        if self._is_thinking:
            return self._told(held), reason
        before = self._inner.read(held) if held else ()
        more, end = self._inner.end(reason)
        return (*before, *more), end

    def _look_for_beginning(self) -> None:
        begin, text = self._marks.begin, self._text.lstrip()
        if text.startswith(begin):
            self._text = text[len(begin) :]
            self._is_thinking, self._may_begin = True, False
        elif not begin.startswith(text):
            self._may_begin = False

    def _read_thoughts(self) -> Sequence[Part]:
        end, text = self._marks.end, self._text
        place = text.find(end)
        if place >= 0:
            self._is_thinking = False
            self._text = text[place + len(end) :].lstrip()
            # White space between thoughts and answer is of neither, also if it comes later.
            self._inner = _Stripped(self._inner)
            return self._told(text[:place].rstrip())
        num_sure = len(text) - overlap(text, end)
        num_sure = len(text[:num_sure].rstrip())
        self._text = text[num_sure:]
        return self._told(text[:num_sure])

    def _told(self, text: str) -> Sequence[Part]:
        if not self._has_begun:
            text = text.lstrip()
        if not text:
            return ()
        self._has_begun = True
        return (Thought(text),)


class _Stripped:
    """A reader of a text without the white space that it begins with."""

    def __init__(self, inner: Reader) -> None:
        self._inner = inner
        self._is_begun = False

    def read(self, text: str) -> Sequence[Part]:
        if not self._is_begun:
            text = text.lstrip()
            self._is_begun = bool(text)
        return self._inner.read(text) if text else ()

    def end(self, reason: FinishReason) -> tuple[Sequence[Part], AnswerEnd]:
        return self._inner.end(reason)

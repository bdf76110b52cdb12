"""Calls in an answer's text, as it grows: words until the mark, then names and arguments."""

import re
from collections.abc import Callable, Sequence
from enum import Enum

from device_runtime.calling.json_end import JsonEnd
from device_runtime.calling.layouts import Layout, id_pattern
from device_runtime.calling.parameters import MarkedArguments
from device_runtime.calling.tools import Offer
from device_runtime.generation.parts import AnswerEnd, Call, Part, Words, overlap
from device_runtime.generation.request import FinishReason


class HalfCallError(Exception):
    """An answer ended in the middle of a call; `name` is the tool's, once that was there.

    `reason`: a length that ran out, or a stop; behind a grammar only a stop of the request's own.
    """

    def __init__(self, name: str | None, reason: FinishReason = "length") -> None:
        super().__init__("an answer ended in the middle of a call")
        self.name = name
        self.reason = reason


class _In(Enum):
    WORDS = "words"
    HEAD = "head"
    ARGUMENTS = "arguments"
    TAIL = "tail"
    BEHIND = "behind"


class CallReader:
    """The `Reader` of one answer that may call tools.

    Args:
        layout: How the model writes calls.
        offer: What may be called.
        make_id: The id of the call of this number.
    """

    def __init__(self, layout: Layout, offer: Offer, make_id: Callable[[int], str]) -> None:
        self._layout = layout
        self._heads = [layout.opening + layout.head(tool.name) for tool in offer.callable]
        self._patterns = [
            (re.compile(layout.head_pattern(tool.name)), tool) for tool in offer.callable
        ]
        self._own_id = re.compile(id_pattern(layout.id_behind_arguments))
        self._make_id = make_id
        self._place = _In.WORDS
        self._text = ""
        """What is not read yet."""
        self._num_calls = 0
        self._json = JsonEnd()
        self._marked: MarkedArguments | None = None
        self._name: str | None = None
        self._may_begin = True
        """Whether a mark that is none may still stand: only at the very beginning."""

    def read(self, text: str) -> Sequence[Part]:
        self._text += text
        parts: list[Part] = []
        while (found := self._next()) is not None:
            parts += found
        return parts

    def end(self, reason: FinishReason) -> tuple[Sequence[Part], AnswerEnd]:
        # Behind whole arguments what closes the call may be missing: a stop of the request's.
        behind = self._layout.tail + self._layout.end
        is_whole = self._place is _In.TAIL and self._text == behind
        if reason == "stop" and self._place is _In.TAIL:
            is_whole = behind.startswith(self._text)
        is_half = self._place in (_In.HEAD, _In.ARGUMENTS, _In.TAIL) and not is_whole
        is_begun = not self._layout.begin and self._may_begin and self._text and self._begins_call
        if is_half or is_begun:
            raise HalfCallError(self._name, reason)
        held, self._text = self._text, ""
        words = (Words(held),) if held and self._place is _In.WORDS else ()
        is_called = self._num_calls > 0 and reason == "stop"
        return words, "tool_calls" if is_called else reason

    def _next(self) -> Sequence[Part] | None:
        """Read on by one step; None if there is nothing to be read yet."""
        match self._place:
            case _In.WORDS:
                return self._read_words()
            case _In.HEAD:
                return self._read_head()
            case _In.ARGUMENTS:
                return self._read_arguments()
            case _In.TAIL:
                return self._read_tail()
            case _In.BEHIND:
                return None

    def _read_words(self) -> Sequence[Part] | None:
        layout, text = self._layout, self._text
        if not layout.begin:
            return self._read_unmarked()
        place = text.find(layout.begin)
        if place >= 0:
            self._text = text[place + len(layout.begin) :]
            self._place = _In.HEAD
            before = text[:place].rstrip()
            return (Words(before),) if before else ()
        num_sure = len(text) - overlap(text, layout.begin)
        # White space before a call is the call's.
        num_sure = len(text[:num_sure].rstrip())
        if num_sure == 0:
            return None
        self._text = text[num_sure:]
        return (Words(text[:num_sure]),)

    def _read_unmarked(self) -> Sequence[Part] | None:
        """Calls without a mark begin the answer, or do not come."""
        text = self._text
        if self._may_begin and text:
            if any(text.startswith(head) for head in self._heads):
                self._place = _In.HEAD
                return ()
            if self._begins_call:
                return None
            self._may_begin = False
        self._text = ""
        return (Words(text),) if text else None

    @property
    def _begins_call(self) -> bool:
        """Whether the text may become the head of a call without a mark."""
        return any(head.startswith(self._text) for head in self._heads)

    def _read_head(self) -> Sequence[Part] | None:
        opening = self._layout.opening if self._num_calls == 0 else ""
        if not self._text.startswith(opening):
            return None
        for pattern, tool in self._patterns:
            if head := pattern.match(self._text, len(opening)):
                self._text = self._text[head.end() :]
                self._place, self._name = _In.ARGUMENTS, tool.name
                self._json = JsonEnd()
                if self._layout.marks is not None:
                    self._marked = MarkedArguments(self._layout.marks, tool.parameters)
                number, self._num_calls = self._num_calls, self._num_calls + 1
                return (Call(number, self._make_id(number), tool.name, ""),)
        return None

    def _read_arguments(self) -> Sequence[Part] | None:
        if self._marked is not None:
            told, self._text, is_over = self._marked.read(self._text)
        else:
            num_own, is_over = self._json.find(self._text)
            told, self._text = self._text[:num_own], self._text[num_own:]
        if is_over:
            self._place = _In.TAIL
        if not told:
            return () if is_over else None
        return (self._grown(told),)

    def _read_tail(self) -> Sequence[Part] | None:
        """What is behind the arguments: another call, or the end of all."""
        layout, text = self._layout, self._text
        if (own_id := self._own_id.match(text)) is not None:
            text = self._text = text[own_id.end() :]
        if layout.between is not None:
            another = layout.tail + layout.between
            if text.startswith(another):
                self._text = text[len(another) :]
                self._place, self._name = _In.HEAD, None
                return ()
            if another.startswith(text):
                # The end may be the beginning of what stands between two calls.
                return None
        if text.startswith(layout.tail + layout.end):
            self._place, self._text = _In.BEHIND, ""
            return ()
        return None

    def _grown(self, arguments: str) -> Call:
        number = self._num_calls - 1
        assert self._name is not None, "a head was read"
        return Call(number, self._make_id(number), self._name, arguments, is_begin=False)

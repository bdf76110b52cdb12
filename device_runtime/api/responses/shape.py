"""Answers as the Responses API writes them: items of an output, whole or as their events."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from device_runtime.api.answer.logprobs import TokenTexts, entry_of
from device_runtime.api.answer.shape import COMMENT, EVENT_STREAM, Begun, Counts
from device_runtime.api.answer.transcript import Piece
from device_runtime.api.errors import ApiError
from device_runtime.api.figures import HatFigures, LoneMark
from device_runtime.api.responses.output import Event, OutputItem, Status
from device_runtime.api.responses.plan import in_own_words
from device_runtime.api.responses.request import Reasoning, ResponsesRequest, TextOptions
from device_runtime.generation.parts import Words
from device_runtime.generation.request import SamplingParams
from device_runtime.text.tokenizer import Tokenizer
from process.world import Clock


def response_id(name: str) -> str:
    """Of the response of this name, which no other has: whoever knows it can go on from it."""
    return f"resp_{name}"


class ResponsesShape:
    """An `AnswerShape`.

    Args:
        request: What was asked.
        name: The response's id.
        sampling: How it is sampled, which a request need not say.
        tokenizer: What its tokens say, for log probabilities.
        unix_clock: For the date of its end.
        on_whole: Gets the finished document, before it is sent.
    """

    headers: ClassVar = EVENT_STREAM
    ping: ClassVar = COMMENT

    def __init__(
        self,
        request: ResponsesRequest,
        name: str,
        sampling: SamplingParams,
        tokenizer: Tokenizer,
        unix_clock: Clock,
        on_whole: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._request = request
        self._name = name
        self._sampling = sampling
        self._texts = TokenTexts(tokenizer)
        self._unix_clock = unix_clock
        self._on_whole = on_whole
        self._items: list[OutputItem] = []
        self._is_open = False
        self._end: Piece | None = None
        self._begun: Begun | None = None
        self._num_events = 0

    def document(
        self, begun: Begun, wholes: Sequence[Piece], counts: Counts, figures: HatFigures | None
    ) -> object:
        [whole] = wholes
        for _ in self._grown(begun, whole):
            pass
        return self._finished(begun, whole, counts, figures)

    def piece(self, begun: Begun, piece: Piece, counts: Callable[[], Counts]) -> bytes:
        events: list[Event] = []
        if piece.is_first:
            self._begun = begun
            response = self._response(begun, "in_progress")
            events.append({"type": "response.created", "response": response})
            events.append({"type": "response.in_progress", "response": response})
        events += self._grown(begun, piece)
        return self._encoded(events)

    def end(self, begun: Begun, counts: Counts, figures: HatFigures | None) -> bytes:
        assert self._end is not None, "the last piece came"
        document = self._finished(begun, self._end, counts, figures)
        return self._encoded([{"type": f"response.{document['status']}", "response": document}])

    def failure(self, error: ApiError) -> bytes:
        own = in_own_words(error, self._request)
        told = {"code": own.code, "message": own.message, "param": own.param}
        # The specification has what happened in `error`, OpenAI's packages beside it.
        events: list[Event] = [{"type": "error", **told, "error": {"type": own.kind, **told}}]
        if self._begun is not None:
            failed = {"code": own.code, "message": own.message}
            # What there is of them stands in the answer that failed; their ends are not told.
            for _ in self._close("incomplete"):
                pass
            output = [item.whole() for item in self._items]
            response = self._response(self._begun, "failed")
            response |= {"output": output, "error": failed}
            events.append({"type": "response.failed", "response": response})
        return self._encoded(events)

    def _grown(self, begun: Begun, piece: Piece) -> Iterator[Event]:
        parts = piece.parts
        if piece.finish_reason is not None and not self._items and not parts:
            # An answer of nothing is a message without words.
            parts = (Words(""),)
        scored = [entry_of(self._texts, scored.token) for scored in piece.tokens]
        for part in parts:
            if not (self._is_open and self._items[-1].takes(part)):
                yield from self._close("completed")
                self._items.append(OutputItem(part, len(self._items), self._item_name))
                self._is_open = True
                yield from self._items[-1].begin()
            yield from self._items[-1].grow(part, scored)
            scored = []
        if self._items:
            self._items[-1].score(scored)
        if piece.finish_reason is not None:
            yield from self._close("incomplete" if _is_cut(piece) else "completed")
            self._end = piece

    @property
    def _item_name(self) -> str:
        return self._name.removeprefix("resp_")

    def _close(self, status: Status) -> Iterator[Event]:
        if self._is_open:
            self._is_open = False
            yield from self._items[-1].end(status)

    def _finished(
        self, begun: Begun, whole: Piece, counts: Counts, figures: HatFigures | None
    ) -> dict[str, Any]:
        document = self._response(begun, "incomplete" if _is_cut(whole) else "completed")
        document["output"] = [item.whole() for item in self._items]
        if _is_cut(whole):
            document["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            document["completed_at"] = int(self._unix_clock())
        document["usage"] = _usage(counts)
        if figures is not None:
            document["hat"] = figures
        self._on_whole(document)
        return document

    def _response(self, begun: Begun, status: str) -> dict[str, Any]:
        """The document without what is known at the end."""
        asked, sampling = self._request, self._sampling
        reasoning = asked.reasoning or Reasoning()
        mark = {"hat": LoneMark()} if begun.is_alone else {}
        return {
            "id": self._name,
            "object": "response",
            "created_at": begun.created,
            "completed_at": None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "max_tool_calls": asked.max_tool_calls,
            "model": begun.model,
            "output": [],
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": asked.previous_response_id,
            "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
            "service_tier": "default",
            "store": asked.store is not False,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "top_logprobs": asked.top_logprobs or 0,
            "text": _text_options(asked.text),
            "tool_choice": "auto" if asked.tool_choice is None else asked.tool_choice,
            # Those that the model was told of.
            "tools": [tool for tool in asked.tools or () if tool.type == "function"],
            "truncation": asked.truncation or "disabled",
            "usage": None,
            "user": asked.user,
            "metadata": asked.metadata or {},
            "safety_identifier": asked.safety_identifier,
            "prompt_cache_key": asked.prompt_cache_key,
            **mark,
        }

    def _encoded(self, events: Sequence[Event]) -> bytes:
        told = []
        for event in events:
            numbered = {"sequence_number": self._num_events, **event}
            self._num_events += 1
            data = msgspec.json.encode(numbered)
            told.append(b"event: %s\ndata: %s\n\n" % (event["type"].encode(), data))
        return b"".join(told)


def _is_cut(piece: Piece) -> bool:
    return piece.finish_reason == "length"


def _text_options(asked: TextOptions | None) -> dict[str, Any]:
    options = asked or TextOptions()
    return {
        "format": options.format or {"type": "text"},
        "verbosity": options.verbosity or "medium",
    }


def _usage(counts: Counts) -> dict[str, Any]:
    return {
        "input_tokens": counts.num_prompt,
        "input_tokens_details": {"cached_tokens": counts.num_cached, "cache_write_tokens": 0},
        "output_tokens": counts.num_generated,
        "output_tokens_details": {"reasoning_tokens": counts.num_thought or 0},
        "total_tokens": counts.num_prompt + counts.num_generated,
    }

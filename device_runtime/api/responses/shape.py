"""Answers as the Responses API writes them: items of an output, whole or as their events."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from device_runtime.api.answer.shape import COMMENT, EVENT_STREAM, Begun, Counts
from device_runtime.api.answer.transcript import Piece
from device_runtime.api.errors import ApiError
from device_runtime.api.figures import HatFigures
from device_runtime.api.responses.output import Event, OutputItem
from device_runtime.api.responses.request import ResponsesRequest
from device_runtime.generation.parts import Words


def response_id(request_id: str) -> str:
    """Of the response to the request of this name."""
    return f"resp_{request_id}"


class ResponsesShape:
    """An `AnswerShape`. `on_whole` gets the finished document, before it is sent."""

    def __init__(
        self, request: ResponsesRequest, on_whole: Callable[[Mapping[str, Any]], None]
    ) -> None:
        self._request = request
        self._on_whole = on_whole
        self._items: list[OutputItem] = []
        self._is_open = False
        self._end: Piece | None = None
        self._begun: Begun | None = None
        self._num_events = 0

    @property
    def headers(self) -> Mapping[str, str]:
        return EVENT_STREAM

    @property
    def ping(self) -> bytes:
        return COMMENT

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
        told = {"code": error.code, "message": error.message, "param": error.param}
        events: list[Event] = [{"type": "error", **told}]
        if self._begun is not None:
            failed = {"code": error.code, "message": error.message}
            response = {**self._response(self._begun, "failed"), "error": failed}
            events.append({"type": "response.failed", "response": response})
        return self._encoded(events)

    def _grown(self, begun: Begun, piece: Piece) -> Iterator[Event]:
        parts = piece.parts
        if piece.finish_reason is not None and not self._items and not parts:
            # An answer of nothing is a message without words.
            parts = (Words(""),)
        for part in parts:
            if not (self._is_open and self._items[-1].takes(part)):
                yield from self._close()
                self._items.append(OutputItem(part, len(self._items), begun.request_id))
                self._is_open = True
                yield from self._items[-1].begin()
            yield from self._items[-1].grow(part)
        if piece.finish_reason is not None:
            yield from self._close()
            self._end = piece

    def _close(self) -> Iterator[Event]:
        if self._is_open:
            self._is_open = False
            yield from self._items[-1].end()

    def _finished(
        self, begun: Begun, whole: Piece, counts: Counts, figures: HatFigures | None
    ) -> dict[str, Any]:
        is_cut = whole.finish_reason == "length"
        status = "incomplete" if is_cut else "completed"
        document = self._response(begun, status)
        document["output"] = [item.whole("completed") for item in self._items]
        if is_cut:
            document["output"][-1]["status"] = "incomplete"
            document["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            document["completed_at"] = begun.created
        document["usage"] = _usage(counts)
        if figures is not None:
            document["hat"] = figures
        self._on_whole(document)
        return document

    def _response(self, begun: Begun, status: str) -> dict[str, Any]:
        """The document without what is known at the end."""
        asked = self._request
        text = asked.text and asked.text.format
        reasoning = asked.reasoning
        return {
            "id": response_id(begun.request_id),
            "object": "response",
            "created_at": begun.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "model": begun.model,
            "output": [],
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": asked.previous_response_id,
            "reasoning": {
                "effort": reasoning and reasoning.effort,
                "summary": reasoning and reasoning.summary,
            },
            "store": asked.store is not False,
            "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "text": {"format": text or {"type": "text"}},
            "tool_choice": "auto" if asked.tool_choice is None else asked.tool_choice,
            "tools": asked.tools or [],
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "truncation": asked.truncation or "disabled",
            "usage": None,
            "user": asked.user,
            "metadata": asked.metadata or {},
        }

    def _encoded(self, events: Sequence[Event]) -> bytes:
        told = []
        for event in events:
            numbered = {"sequence_number": self._num_events, **event}
            self._num_events += 1
            data = msgspec.json.encode(numbered)
            told.append(b"event: %s\ndata: %s\n\n" % (event["type"].encode(), data))
        return b"".join(told)


def _usage(counts: Counts) -> dict[str, Any]:
    return {
        "input_tokens": counts.num_prompt,
        "input_tokens_details": {"cached_tokens": counts.num_cached},
        "output_tokens": counts.num_generated,
        "output_tokens_details": {"reasoning_tokens": counts.num_thought or 0},
        "total_tokens": counts.num_prompt + counts.num_generated,
    }

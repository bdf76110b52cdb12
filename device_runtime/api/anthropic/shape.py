"""Answers as Anthropic's API writes them: a message of blocks, whole or as its events."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from device_runtime.api.answer.shape import EVENT_STREAM, Begun, Counts
from device_runtime.api.answer.transcript import Piece
from device_runtime.api.anthropic.chat import PLACES
from device_runtime.api.errors import ApiError, TooLongError
from device_runtime.api.figures import HatFigures, LoneMark
from device_runtime.api.request.places import told_in
from device_runtime.generation.parts import AnswerEnd, Call, Part, Thought, Words

_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}

_REASONS: Mapping[AnswerEnd | None, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}


_SIGNATURE = "unsigned"
"""Some clients leave thoughts without a signature out of what they send back."""


def envelope(error: ApiError) -> bytes:
    """An error in Anthropic's words; below 500 all others are the request's.

    By the words "prompt is too long" clients know that they have to shorten a conversation.
    """
    other = "api_error" if error.status >= 500 else "invalid_request_error"
    kind = _ERROR_TYPES.get(error.status, other)
    message = told_in(error, PLACES)
    if isinstance(error, TooLongError):
        message = f"prompt is too long: {error.num_tokens} tokens > {error.max_tokens} maximum"
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})


class MessagesShape:
    """An `AnswerShape`. Blocks follow each other: a part of another kind begins the next one.

    `asked_tokens`: an answer that ended before them for want of room says so.
    """

    headers: ClassVar = EVENT_STREAM
    ping: ClassVar = b'event: ping\ndata: {"type":"ping"}\n\n'

    def __init__(self, asked_tokens: int) -> None:
        self._asked_tokens = asked_tokens
        self._num_blocks = 0
        self._open: Part | None = None
        self._end: Piece | None = None

    def document(
        self, begun: Begun, wholes: Sequence[Piece], counts: Counts, figures: HatFigures | None
    ) -> object:
        [whole] = wholes
        blocks = [_whole_block(part) for part in whole.parts]
        told = {} if figures is None else {"hat": figures}
        return {**_message(begun, blocks, counts), **self._ending(whole), **told}

    def piece(self, begun: Begun, piece: Piece, counts: Callable[[], Counts]) -> bytes:
        events: list[Mapping[str, Any]] = []
        if piece.is_first:
            events.append({"type": "message_start", "message": _message(begun, [], counts())})
        for part in piece.parts:
            events += self._grown(part)
        if piece.finish_reason is not None:
            events += self._close()
            self._end = piece
        return b"".join(map(_event, events))

    def end(self, begun: Begun, counts: Counts, figures: HatFigures | None) -> bytes:
        assert self._end is not None, "the last piece came"
        mark = {"hat": LoneMark()} if begun.is_alone else {}
        told = mark if figures is None else {"hat": figures}
        delta = {"type": "message_delta", "delta": self._ending(self._end)}
        return _event({**delta, "usage": _usage(counts), **told}) + _event({"type": "message_stop"})

    def failure(self, error: ApiError) -> bytes:
        return b"event: error\ndata: " + envelope(error) + b"\n\n"

    def _grown(self, part: Part) -> Iterator[Mapping[str, Any]]:
        if not self._goes_on(part):
            yield from self._close()
            self._open = part
            block = _empty_block(part)
            yield {"type": "content_block_start", "index": self._num_blocks, "content_block": block}
        if delta := _delta(part):
            yield {"type": "content_block_delta", "index": self._num_blocks, "delta": delta}

    def _goes_on(self, part: Part) -> bool:
        """Whether the open block is this part's."""
        before = self._open
        if isinstance(part, Call):
            return isinstance(before, Call) and before.index == part.index
        return type(before) is type(part)

    def _close(self) -> Iterator[Mapping[str, Any]]:
        if self._open is not None:
            if isinstance(self._open, Thought):
                signed = {"type": "signature_delta", "signature": _SIGNATURE}
                yield {"type": "content_block_delta", "index": self._num_blocks, "delta": signed}
            yield {"type": "content_block_stop", "index": self._num_blocks}
            self._num_blocks += 1
            self._open = None

    def _ending(self, piece: Piece) -> dict[str, str | None]:
        if piece.stop and piece.finish_reason == "stop":
            return {"stop_reason": "stop_sequence", "stop_sequence": piece.stop}
        reason = _REASONS[piece.finish_reason]
        if piece.finish_reason == "length" and piece.num_tokens < self._asked_tokens:
            reason = "model_context_window_exceeded"
        return {"stop_reason": reason, "stop_sequence": None}


def _message(begun: Begun, blocks: Sequence[Any], counts: Counts) -> dict[str, Any]:
    message = {
        "id": f"msg_{begun.request_id}",
        "type": "message",
        "role": "assistant",
        "model": begun.model,
        "content": blocks,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(counts),
    }
    return {**message, "hat": LoneMark()} if begun.is_alone else message


def _usage(counts: Counts) -> dict[str, Any]:
    """Tokens that were cached are counted apart from the others."""
    usage: dict[str, Any] = {
        "input_tokens": counts.num_prompt - counts.num_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.num_cached,
        "output_tokens": counts.num_generated,
    }
    if counts.num_thought is not None:
        usage["output_tokens_details"] = {"thinking_tokens": counts.num_thought}
    return usage


def _empty_block(part: Part) -> dict[str, Any]:
    match part:
        case Words():
            return {"type": "text", "text": ""}
        case Thought():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case Call():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}


def _whole_block(part: Part) -> dict[str, Any]:
    match part:
        case Words(text):
            return {"type": "text", "text": text}
        case Thought(text):
            return {"type": "thinking", "thinking": text, "signature": _SIGNATURE}
        case Call():
            given = msgspec.Raw((part.arguments or "{}").encode())
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": given}


def _delta(part: Part) -> dict[str, str] | None:
    match part:
        case Words(text):
            return {"type": "text_delta", "text": text}
        case Thought(text):
            return {"type": "thinking_delta", "thinking": text}
        case Call(arguments=""):
            return None
        case Call():
            return {"type": "input_json_delta", "partial_json": part.arguments}


def _event(event: Mapping[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event["type"].encode(), msgspec.json.encode(event))

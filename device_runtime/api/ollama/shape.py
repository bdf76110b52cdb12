"""Answers as Ollama's API writes them: one JSON object a line, the last one with the figures."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec

from device_runtime.api.answer.shape import Begun, Counts
from device_runtime.api.answer.transcript import Piece
from device_runtime.api.errors import ApiError
from device_runtime.api.figures import HatFigures, LoneMark
from device_runtime.api.ollama.request import PLACES
from device_runtime.api.request.places import told_in
from device_runtime.generation.parts import Call, Part, Thought, Words, joined

_HEADERS: Mapping[str, str] = {
    "Content-Type": "application/x-ndjson",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


def envelope(error: ApiError) -> bytes:
    """An error in Ollama's words."""
    return msgspec.json.encode({"error": told_in(error, PLACES)})


class OllamaShape:
    """An `AnswerShape`. Of chats each line has a `message`, else a `response`; calls come whole.

    `clock` tells Unix time, and `began_s` when the request came by it.
    """

    headers: ClassVar = _HEADERS
    ping: ClassVar = b" "
    """White space before the next line's object; an empty line would be no JSON to clients."""

    def __init__(self, is_chat: bool, clock: Callable[[], float]) -> None:
        self._is_chat = is_chat
        self._clock = clock
        self._began_s = clock()
        self._calls: list[Part] = []
        self._end: Piece | None = None

    def document(
        self, begun: Begun, wholes: Sequence[Piece], counts: Counts, figures: HatFigures | None
    ) -> object:
        [whole] = wholes
        return {**self._told(begun, whole.parts), **self._ending(whole, counts, figures)}

    def piece(self, begun: Begun, piece: Piece, counts: Callable[[], Counts]) -> bytes:
        said: list[Part] = [part for part in piece.parts if not isinstance(part, Call)]
        self._calls += [part for part in piece.parts if isinstance(part, Call)]
        if piece.finish_reason is not None:
            self._end = piece
            said += joined(self._calls)
        return _line(self._told(begun, said)) if said else b""

    def end(self, begun: Begun, counts: Counts, figures: HatFigures | None) -> bytes:
        assert self._end is not None, "the last piece came"
        return _line({**self._told(begun, ()), **self._ending(self._end, counts, figures)})

    def failure(self, error: ApiError) -> bytes:
        return envelope(error) + b"\n"

    def _told(self, begun: Begun, parts: Sequence[Part]) -> dict[str, Any]:
        words = "".join(part.text for part in parts if isinstance(part, Words))
        thoughts = "".join(part.text for part in parts if isinstance(part, Thought))
        calls = [_call(part) for part in parts if isinstance(part, Call)]
        told: dict[str, Any] = {
            "model": begun.model,
            "created_at": datetime.fromtimestamp(self._clock(), UTC).isoformat(),
        }
        if begun.is_alone:
            # Ollama's own package drops fields that it does not know.
            told |= {"model": f"{begun.model} (draft)", "hat": LoneMark()}
        more: dict[str, Any] = {"thinking": thoughts} if thoughts else {}
        if not self._is_chat:
            return {**told, "response": words, **more, "done": False}
        message = {"role": "assistant", "content": words, **more}
        if calls:
            message["tool_calls"] = calls
        return {**told, "message": message, "done": False}

    def _ending(self, piece: Piece, counts: Counts, figures: HatFigures | None) -> dict[str, Any]:
        total = _nanoseconds(self._clock() - self._began_s)
        first_s = None if figures is None else figures.first_token_s
        prompt = total if first_s is None else min(total, _nanoseconds(first_s))
        return {
            "done": True,
            "done_reason": "length" if piece.finish_reason == "length" else "stop",
            "total_duration": total,
            "load_duration": 0,
            "prompt_eval_count": counts.num_prompt,
            "prompt_eval_duration": prompt,
            "eval_count": counts.num_generated,
            "eval_duration": total - prompt,
        }


def _call(part: Call) -> dict[str, Any]:
    arguments = msgspec.Raw((part.arguments or "{}").encode())
    function = {"index": part.index, "name": part.name, "arguments": arguments}
    return {"id": part.id, "function": function}


def _nanoseconds(seconds: float) -> int:
    return max(0, round(1e9 * seconds))


def _line(value: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"

"""How an API writes an answer down: as one document, or as events."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from device_runtime.api.answer.transcript import Piece
from device_runtime.api.errors import ApiError
from device_runtime.api.figures import HatFigures


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of a request's prompts, each once, and of all its choices as far as they are sent.

    `num_cached` of the prompts' were in the caches already.
    """

    num_prompt: int
    num_generated: int
    num_cached: int
    num_thought: int | None = None
    """Of the generated ones, those of thoughts; None: the model does not think."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer that begins now: the request's name, the time, and what computes it."""

    request_id: str
    created: int
    """Unix time, in seconds."""
    model: str
    system_fingerprint: str
    is_alone: bool = False
    """The draft model gives it without the cloud, which all that tells of it has to say."""


class AnswerShape(Protocol):
    """One answer of one API. What it is told comes in order, from one request."""

    headers: ClassVar[Mapping[str, str]]
    """Those of a stream, with its content type."""
    ping: ClassVar[bytes]
    """What a stream may say that means nothing, while it has nothing to say."""

    def document(
        self, begun: Begun, wholes: Sequence[Piece], counts: Counts, figures: HatFigures | None
    ) -> object:
        """The whole answer as a value for JSON: one piece for each choice.

        `figures` are there if the request wants them told.
        """
        ...

    def piece(self, begun: Begun, piece: Piece, counts: Callable[[], Counts]) -> bytes:
        """What a stream says of a piece; before the first one also how it begins."""
        ...

    def end(self, begun: Begun, counts: Counts, figures: HatFigures | None) -> bytes:
        """How a stream ends, behind the last piece of every choice."""
        ...

    def failure(self, error: ApiError) -> bytes:
        """How a stream ends that failed in the middle."""
        ...


EVENT_STREAM: Mapping[str, str] = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    # nginx would otherwise collect the events before passing them on.
    "X-Accel-Buffering": "no",
}
"""Headers of server-sent events."""

COMMENT = b": ping\n\n"
"""An event that is none."""

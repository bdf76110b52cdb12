"""POST /v1/completions."""

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from device_runtime.api.job.plan import plan_completion
from device_runtime.api.manners.request_id import request_id_of
from device_runtime.api.request.body import CompletionRequest, read_request
from device_runtime.api.response.answering import answer, make_head
from device_runtime.api.response.logprobs import completion_logprobs
from device_runtime.api.response.messages import (
    Answer,
    CompletionChoice,
    CompletionLogprobs,
    Usage,
)
from device_runtime.api.response.shape import AnswerFigures, ChunkUsage, Head
from device_runtime.api.response.transcript import Piece
from device_runtime.api.service import SERVICE
from device_runtime.text.tokenizer import Tokenizer


async def completions(request: web.Request) -> web.StreamResponse:
    """Continue a text, or several."""
    service = request.app[SERVICE]
    arrived_s = service.metrics.clock()
    fields = await read_request(request, CompletionRequest, service.timing.read_s)
    job = await plan_completion(service, fields, request_id_of(request), arrived_s)
    head = make_head(service, "cmpl", job.request_id)
    has_logprobs = fields.logprobs is not None
    return await answer(request, job, CompletionShape(head, service.tokenizer, has_logprobs))


@dataclass(frozen=True, slots=True)
class CompletionShape:
    """Answers as text."""

    head: Head
    tokenizer: Tokenizer
    has_logprobs: bool

    def document(
        self, answers: Sequence[Piece], usage: Usage, figures: AnswerFigures
    ) -> Answer[CompletionChoice]:
        """The whole answer."""
        return self.head.over(
            "text_completion", [self._choice(answer) for answer in answers], usage, figures
        )

    def chunk(self, piece: Piece, usage: ChunkUsage) -> Answer[CompletionChoice]:
        """One event."""
        if piece.finish_reason is not None:
            end = CompletionChoice(piece.index, "", None, piece.finish_reason)
            return self.head.over("text_completion", [end], usage)
        return self.head.over("text_completion", [self._choice(piece)], usage)

    def last_chunk(self, usage: ChunkUsage, figures: AnswerFigures) -> Answer[CompletionChoice]:
        """The last event."""
        choices: list[CompletionChoice] = []
        return self.head.over("text_completion", choices, usage, figures)

    def _choice(self, piece: Piece) -> CompletionChoice:
        return CompletionChoice(piece.index, piece.text, self._logprobs(piece), piece.finish_reason)

    def _logprobs(self, piece: Piece) -> CompletionLogprobs | None:
        return completion_logprobs(self.tokenizer, piece.tokens) if self.has_logprobs else None

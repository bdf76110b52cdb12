"""POST /v1/chat/completions."""

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web
from msgspec import UNSET

from device_runtime.api.job.plan import plan_chat
from device_runtime.api.manners.request_id import request_id_of
from device_runtime.api.request.body import ChatRequest, read_request
from device_runtime.api.response.answering import answer, make_head
from device_runtime.api.response.logprobs import chat_logprobs
from device_runtime.api.response.messages import (
    Answer,
    ChatChoice,
    ChatChunkChoice,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    Usage,
)
from device_runtime.api.response.shape import AnswerFigures, ChunkUsage, Head
from device_runtime.api.response.transcript import Piece
from device_runtime.api.service import SERVICE
from device_runtime.text.tokenizer import Tokenizer


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Continue a conversation."""
    service = request.app[SERVICE]
    arrived_s = service.metrics.clock()
    fields = await read_request(request, ChatRequest, service.timing.read_s)
    job = await plan_chat(service, fields, request_id_of(request), arrived_s)
    head = make_head(service, "chatcmpl", job.request_id)
    shape = ChatShape(head, service.tokenizer, has_logprobs=bool(fields.logprobs))
    return await answer(request, job, shape)


@dataclass(frozen=True, slots=True)
class ChatShape:
    """Answers as assistant messages."""

    head: Head
    tokenizer: Tokenizer
    has_logprobs: bool

    def document(
        self, answers: Sequence[Piece], usage: Usage, figures: AnswerFigures
    ) -> Answer[ChatChoice]:
        """The whole answer."""
        choices = [
            ChatChoice(
                answer.index,
                ChatMessage(content=answer.text),
                self._logprobs(answer),
                answer.finish_reason,
            )
            for answer in answers
        ]
        return self.head.over("chat.completion", choices, usage, figures)

    def chunk(self, piece: Piece, usage: ChunkUsage) -> Answer[ChatChunkChoice]:
        """One event; the first of a choice carries the role, so it never comes before a token."""
        delta, logprobs = ChatDelta(), None
        if piece.finish_reason is None:
            delta = ChatDelta(role="assistant" if piece.is_first else UNSET, content=piece.text)
            logprobs = self._logprobs(piece)
        choice = ChatChunkChoice(piece.index, delta, logprobs, piece.finish_reason)
        return self.head.over("chat.completion.chunk", [choice], usage)

    def last_chunk(self, usage: ChunkUsage, figures: AnswerFigures) -> Answer[ChatChunkChoice]:
        """The last event."""
        choices: list[ChatChunkChoice] = []
        return self.head.over("chat.completion.chunk", choices, usage, figures)

    def _logprobs(self, piece: Piece) -> ChatLogprobs | None:
        return chat_logprobs(self.tokenizer, piece.tokens) if self.has_logprobs else None

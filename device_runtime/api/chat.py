"""POST /v1/chat/completions."""

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web
from msgspec import UNSET

from device_runtime.api.errors import invalid
from device_runtime.api.job.job import (
    EncodedPrompt,
    Job,
    Wishes,
    make_choices,
    stream_mode,
)
from device_runtime.api.job.parameters import check_model
from device_runtime.api.job.prompts import ChatOptions, check_ids, encode_chat
from device_runtime.api.manners.request_id import request_id_of
from device_runtime.api.request.body import ChatRequest
from device_runtime.api.response.answering import answer, make_head, read_request
from device_runtime.api.response.logprobs import chat_logprobs
from device_runtime.api.response.messages import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    Usage,
)
from device_runtime.api.response.shape import AnswerFigures, ChunkUsage, Head
from device_runtime.api.response.transcript import Piece
from device_runtime.api.service import SERVICE, Service
from device_runtime.text.tokenizer import Tokenizer


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Continue a conversation."""
    service = request.app[SERVICE]
    arrived_s = service.metrics.clock()
    fields = await read_request(request, ChatRequest)
    job = await _make_job(service, fields, request_id_of(request), arrived_s)
    head = make_head(service, "chatcmpl", job.request_id)
    shape = ChatShape(head, service.tokenizer, has_logprobs=bool(fields.logprobs))
    return await answer(request, job, shape)


async def _make_job(
    service: Service, fields: ChatRequest, request_id: str, arrived_s: float
) -> Job:
    check_model(fields.model, service.model)
    mode = stream_mode(fields)
    num_logprobs = _num_logprobs(fields)
    variables = dict(fields.chat_template_kwargs or {})
    if fields.reasoning_effort is not None:
        variables.setdefault("reasoning_effort", fields.reasoning_effort)
    options = ChatOptions(
        add_generation_prompt=fields.add_generation_prompt is not False,
        add_special_tokens=fields.add_special_tokens,
        variables=variables,
    )
    ids = await encode_chat(service, fields.messages, options)
    check_ids(ids, service.generator.vocab_size, "messages")
    asked = fields.max_completion_tokens or fields.max_tokens
    wishes = Wishes("messages", asked, None, num_logprobs)
    choices = make_choices(service, fields, [EncodedPrompt(ids)], wishes)
    return Job(request_id, arrived_s, choices, len(ids), mode, bool(fields.include_hat_stats))


def _num_logprobs(fields: ChatRequest) -> int | None:
    if fields.logprobs:
        return fields.top_logprobs or 0
    if fields.top_logprobs:
        raise invalid("top_logprobs", "top_logprobs: only allowed when logprobs is true")
    return None


@dataclass(frozen=True, slots=True)
class ChatShape:
    """Answers as assistant messages."""

    head: Head
    tokenizer: Tokenizer
    has_logprobs: bool

    def document(
        self, answers: Sequence[Piece], usage: Usage, figures: AnswerFigures
    ) -> ChatCompletion:
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
        return ChatCompletion(
            id=self.head.id,
            created=self.head.created,
            model=self.head.model,
            system_fingerprint=self.head.system_fingerprint,
            choices=choices,
            usage=usage,
            hat=figures,
        )

    def chunk(self, piece: Piece, usage: ChunkUsage) -> ChatChunk:
        """One event; the first of a choice carries the role, so it never comes before a token."""
        delta, logprobs = ChatDelta(), None
        if piece.finish_reason is None:
            delta = ChatDelta(role="assistant" if piece.is_first else UNSET, content=piece.text)
            logprobs = self._logprobs(piece)
        choice = ChatChunkChoice(piece.index, delta, logprobs, piece.finish_reason)
        return self._chunk([choice], usage)

    def last_chunk(self, usage: ChunkUsage, figures: AnswerFigures) -> ChatChunk:
        """The last event."""
        return self._chunk([], usage, figures)

    def _chunk(
        self, choices: list[ChatChunkChoice], usage: ChunkUsage, figures: AnswerFigures = UNSET
    ) -> ChatChunk:
        return ChatChunk(
            id=self.head.id,
            created=self.head.created,
            model=self.head.model,
            system_fingerprint=self.head.system_fingerprint,
            choices=choices,
            usage=usage,
            hat=figures,
        )

    def _logprobs(self, piece: Piece) -> ChatLogprobs | None:
        return chat_logprobs(self.tokenizer, piece.tokens) if self.has_logprobs else None

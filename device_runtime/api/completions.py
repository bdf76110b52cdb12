"""POST /v1/completions."""

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web
from msgspec import UNSET

from device_runtime.api.errors import unsupported
from device_runtime.api.job.job import EncodedPrompt, Job, Wishes, make_choices, stream_mode
from device_runtime.api.job.parameters import check_model, check_num_choices
from device_runtime.api.job.prompts import encode_prompts, split_prompts
from device_runtime.api.manners.request_id import request_id_of
from device_runtime.api.request.body import CompletionRequest
from device_runtime.api.response.answering import answer, make_head, read_request
from device_runtime.api.response.logprobs import completion_logprobs
from device_runtime.api.response.messages import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Usage,
)
from device_runtime.api.response.shape import AnswerFigures, ChunkUsage, Head
from device_runtime.api.response.transcript import Piece
from device_runtime.api.service import SERVICE, Service
from device_runtime.text.detokenizer import whole_text
from device_runtime.text.tokenizer import Tokenizer

# OpenAI's default for completions; chat has none.
DEFAULT_MAX_TOKENS = 16


async def completions(request: web.Request) -> web.StreamResponse:
    """Continue a text, or several."""
    service = request.app[SERVICE]
    arrived_s = service.metrics.clock()
    fields = await read_request(request, CompletionRequest)
    job = await _make_job(service, fields, request_id_of(request), arrived_s)
    head = make_head(service, "cmpl", job.request_id)
    has_logprobs = fields.logprobs is not None
    return await answer(request, job, CompletionShape(head, service.tokenizer, has_logprobs))


async def _make_job(
    service: Service, fields: CompletionRequest, request_id: str, arrived_s: float
) -> Job:
    check_model(fields.model, service.model)
    mode = stream_mode(fields)
    if fields.echo and fields.logprobs is not None:
        message = "logprobs with echo is not supported here: prompts have no log probabilities"
        raise unsupported("logprobs", message)
    prompts = await _encode(service, fields)
    wishes = Wishes("prompt", fields.max_tokens, DEFAULT_MAX_TOKENS, fields.logprobs)
    choices = make_choices(service, fields, prompts, wishes)
    num_prompt_tokens = sum(len(prompt.ids) for prompt in prompts)
    wants_figures = bool(fields.include_hat_stats)
    return Job(request_id, arrived_s, choices, num_prompt_tokens, mode, wants_figures)


async def _encode(service: Service, fields: CompletionRequest) -> list[EncodedPrompt]:
    prompts = split_prompts(fields.prompt)
    check_num_choices(len(prompts), fields.n or 1)
    encoded = await encode_prompts(service, prompts, fields.add_special_tokens is not False)
    if not fields.echo:
        return [EncodedPrompt(ids) for ids in encoded]
    return [
        EncodedPrompt(ids, prompt if isinstance(prompt, str) else await _text(service, ids))
        for ids, prompt in zip(encoded, prompts, strict=True)
    ]


async def _text(service: Service, ids: list[int]) -> str:
    tokenizer = service.tokenizer
    return await service.text_work.tokenize(len(ids), lambda: whole_text(tokenizer, ids))


@dataclass(frozen=True, slots=True)
class CompletionShape:
    """Answers as text."""

    head: Head
    tokenizer: Tokenizer
    has_logprobs: bool

    def document(
        self, answers: Sequence[Piece], usage: Usage, figures: AnswerFigures
    ) -> Completion:
        """The whole answer."""
        return self._completion([self._choice(answer) for answer in answers], usage, figures)

    def chunk(self, piece: Piece, usage: ChunkUsage) -> Completion:
        """One event."""
        if piece.finish_reason is not None:
            end = CompletionChoice(piece.index, "", None, piece.finish_reason)
            return self._completion([end], usage)
        return self._completion([self._choice(piece)], usage)

    def last_chunk(self, usage: ChunkUsage, figures: AnswerFigures) -> Completion:
        """The last event."""
        return self._completion([], usage, figures)

    def _completion(
        self, choices: list[CompletionChoice], usage: ChunkUsage, figures: AnswerFigures = UNSET
    ) -> Completion:
        return Completion(
            id=self.head.id,
            created=self.head.created,
            model=self.head.model,
            system_fingerprint=self.head.system_fingerprint,
            choices=choices,
            usage=usage,
            hat=figures,
        )

    def _choice(self, piece: Piece) -> CompletionChoice:
        return CompletionChoice(piece.index, piece.text, self._logprobs(piece), piece.finish_reason)

    def _logprobs(self, piece: Piece) -> CompletionLogprobs | None:
        return completion_logprobs(self.tokenizer, piece.tokens) if self.has_logprobs else None

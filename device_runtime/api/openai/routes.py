"""POST /v1/chat/completions and /v1/completions."""

from typing import Any

from aiohttp import hdrs, web

from device_runtime.api.answer.logprobs import TokenTexts
from device_runtime.api.answer.sending import answer
from device_runtime.api.description.table import ANSWER_ERRORS, EVENTS, JSON, Api, Route
from device_runtime.api.errors import no_embeddings
from device_runtime.api.job.plan import plan_chat, plan_completion
from device_runtime.api.manners.middleware import request_id_of
from device_runtime.api.openai.documents import ChatCompletion, TextCompletion
from device_runtime.api.openai.extras import WantedExtras
from device_runtime.api.openai.shape import ChatShape, CompletionShape, OpenAIShape
from device_runtime.api.request.body import (
    ChatRequest,
    CompletionRequest,
    StreamOptions,
    read_request,
)
from device_runtime.api.service import SERVICE

_NO_OPTIONS = StreamOptions()


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Continue a conversation."""
    service = request.app[SERVICE]
    arrived_s = service.metrics.clock()
    fields = await read_request(request, ChatRequest, service.timing.read_s)
    job = await plan_chat(service, fields, request_id_of(request), arrived_s)
    choices = ChatShape(TokenTexts(service.tokenizer), _extras(fields))
    return await answer(request, job, OpenAIShape(choices, fields.stream_options or _NO_OPTIONS))


async def completions(request: web.Request) -> web.StreamResponse:
    """Continue a text, or several."""
    service = request.app[SERVICE]
    arrived_s = service.metrics.clock()
    fields = await read_request(request, CompletionRequest, service.timing.read_s)
    job = await plan_completion(service, fields, request_id_of(request), arrived_s)
    choices = CompletionShape(TokenTexts(service.tokenizer), _extras(fields))
    return await answer(request, job, OpenAIShape(choices, fields.stream_options or _NO_OPTIONS))


def _extras(fields: ChatRequest | CompletionRequest) -> WantedExtras:
    ids = bool(fields.return_token_ids)
    return WantedExtras(fields.num_logprobs, fields.prompt_logprobs, ids)


async def embeddings(_request: web.Request) -> web.StreamResponse:
    """Refused with the reason.

    Raises:
        ApiError: 501.
    """
    raise no_embeddings()


API = Api(
    "openai",
    (
        Route(
            hdrs.METH_POST,
            "/v1/chat/completions",
            chat_completions,
            {JSON: ChatCompletion, EVENTS: Any},
            ChatRequest,
            ANSWER_ERRORS,
        ),
        Route(
            hdrs.METH_POST,
            "/v1/completions",
            completions,
            {JSON: TextCompletion, EVENTS: Any},
            CompletionRequest,
            ANSWER_ERRORS,
        ),
        Route(hdrs.METH_POST, "/v1/embeddings", embeddings, {}, errors=(501,)),
    ),
)

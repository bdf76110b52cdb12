"""POST /v1/messages and /v1/messages/count_tokens."""

from typing import Any

from aiohttp import hdrs, web

from device_runtime.api.answer.sending import answer, json_response
from device_runtime.api.anthropic.chat import chat_of
from device_runtime.api.anthropic.documents import AnthropicError, CountedTokens, MessageDocument
from device_runtime.api.anthropic.request import CountRequest, MessagesRequest
from device_runtime.api.anthropic.shape import MessagesShape, envelope
from device_runtime.api.description.table import (
    ANSWER_ERRORS,
    EVENTS,
    JSON,
    MODEL_ERRORS,
    Api,
    Route,
)
from device_runtime.api.job.plan import encoded_chat, plan_chat
from device_runtime.api.manners.middleware import request_id_of
from device_runtime.api.request.body import read_request
from device_runtime.api.request.tool_fields import offer_of
from device_runtime.api.service import SERVICE


async def messages(request: web.Request) -> web.StreamResponse:
    """Continue a conversation."""
    service = request.app[SERVICE]
    arrived_s = service.metrics.clock()
    fields = await read_request(request, MessagesRequest, service.timing.read_s)
    name = request_id_of(request)
    job = await plan_chat(service, chat_of(fields), name, arrived_s, cuts_length=True)
    return await answer(request, job, MessagesShape(fields.max_tokens))


async def count_tokens(request: web.Request) -> web.Response:
    """How long a conversation is for the model."""
    service = request.app[SERVICE]
    fields = await read_request(request, CountRequest, service.timing.read_s)
    service.model.check(fields.model)
    asked = chat_of(fields)
    chat = await encoded_chat(service, asked, offer_of(asked))
    return json_response({"input_tokens": len(chat.ids)})


_PATH = "/v1/messages"

API = Api(
    "anthropic",
    (
        Route(
            hdrs.METH_POST,
            _PATH,
            messages,
            {JSON: MessageDocument, EVENTS: Any},
            MessagesRequest,
            ANSWER_ERRORS,
        ),
        Route(
            hdrs.METH_POST,
            f"{_PATH}/count_tokens",
            count_tokens,
            {JSON: CountedTokens},
            CountRequest,
            MODEL_ERRORS,
        ),
    ),
    envelope,
    AnthropicError,
    prefix=_PATH,
)

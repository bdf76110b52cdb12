"""POST /v1/messages and /v1/messages/count_tokens."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

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
from device_runtime.api.errors import ApiError
from device_runtime.api.job.plan import Job, encoded_chat, plan_chat
from device_runtime.api.job.prompts import EncodedChat
from device_runtime.api.manners.middleware import request_id_of
from device_runtime.api.request.body import ChatRequest, read_request
from device_runtime.api.request.tool_fields import offer_of
from device_runtime.api.service import SERVICE

T = TypeVar("T")


async def messages(request: web.Request) -> web.StreamResponse:
    """Continue a conversation."""
    service = request.app[SERVICE]
    arrived_s = service.metrics.clock()
    fields = await read_request(request, MessagesRequest, service.timing.read_s)
    name = request_id_of(request)

    async def plan(chat: ChatRequest) -> Job:
        return await plan_chat(service, chat, name, arrived_s, cuts_length=True)

    job = await _understood(fields, plan)
    return await answer(request, job, MessagesShape(fields.max_tokens))


async def count_tokens(request: web.Request) -> web.Response:
    """How long a conversation is for the model."""
    service = request.app[SERVICE]
    fields = await read_request(request, CountRequest, service.timing.read_s)
    service.model.check(fields.model)

    async def encode(chat: ChatRequest) -> EncodedChat:
        return await encoded_chat(service, chat, offer_of(chat))

    chat = await _understood(fields, encode)
    return json_response({"input_tokens": len(chat.ids)})


async def _understood(fields: CountRequest, use: Callable[[ChatRequest], Awaitable[T]]) -> T:
    """What comes of a request.

    Claude Code lets the system speak between turns; to a template that does not, the user says it.
    """
    try:
        return await use(chat_of(fields))
    except ApiError as error:
        has_system = any(turn.role == "system" for turn in fields.messages)
        if error.code != "chat_template_failed" or not has_system:
            raise
    return await use(chat_of(fields, folds_system=True))


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
    header="anthropic-version",
)

"""POST /v1/messages and /v1/messages/count_tokens."""

from aiohttp import web

from device_runtime.api.answer.sending import answer, json_response
from device_runtime.api.anthropic.request import CountRequest, MessagesRequest, chat_of
from device_runtime.api.anthropic.shape import MessagesShape
from device_runtime.api.job.plan import encoded_chat, plan_chat
from device_runtime.api.manners.middleware import request_id_of
from device_runtime.api.request.body import read_request
from device_runtime.api.request.tool_fields import offer_of
from device_runtime.api.service import SERVICE

PATH = "/v1/messages"


async def messages(request: web.Request) -> web.StreamResponse:
    """Continue a conversation."""
    service = request.app[SERVICE]
    arrived_s = service.metrics.clock()
    fields = await read_request(request, MessagesRequest, service.timing.read_s)
    name = request_id_of(request)
    job = await plan_chat(service, chat_of(fields), name, arrived_s, cuts_length=True)
    return await answer(request, job, MessagesShape())


async def count_tokens(request: web.Request) -> web.Response:
    """How long a conversation is for the model."""
    service = request.app[SERVICE]
    fields = await read_request(request, CountRequest, service.timing.read_s)
    service.model.check(fields.model)
    asked = chat_of(fields)
    chat = await encoded_chat(service, asked, offer_of(asked))
    return json_response({"input_tokens": len(chat.ids)})

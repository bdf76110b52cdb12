"""POST /v1/responses, and GET and DELETE of those that are kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import hdrs, web

from device_runtime.api.answer.sending import answer, json_response
from device_runtime.api.description.table import ANSWER_ERRORS, EVENTS, JSON, Api, Route
from device_runtime.api.errors import ApiError
from device_runtime.api.job.plan import plan_chat
from device_runtime.api.manners.middleware import request_id_of
from device_runtime.api.request.body import read_request
from device_runtime.api.responses.documents import DeletedResponse, Response
from device_runtime.api.responses.request import Item, ResponsesRequest, chat_of, items_of
from device_runtime.api.responses.shape import ResponsesShape, response_id
from device_runtime.api.responses.store import ResponseStore, Stored
from device_runtime.api.service import SERVICE

STORE = web.AppKey("responses", ResponseStore)


async def responses(request: web.Request) -> web.StreamResponse:
    """Go on from some items, and perhaps from an earlier response."""
    service, store = request.app[SERVICE], request.app[STORE]
    arrived_s = service.metrics.clock()
    fields = await read_request(request, ResponsesRequest, service.timing.read_s)
    earlier: Sequence[Item] = ()
    if fields.previous_response_id is not None:
        earlier = _stored(store, fields.previous_response_id, "previous_response_id").items
    name = request_id_of(request)
    job = await plan_chat(service, chat_of(fields, earlier), name, arrived_s, cuts_length=True)

    def keep(document: Mapping[str, Any]) -> None:
        if fields.store is not False:
            said = msgspec.convert(document["output"], list[Item])
            items = (*earlier, *items_of(fields.input), *said)
            num_characters = len(msgspec.json.encode((items, document)))
            store.put(response_id(name), Stored(items, document, num_characters))

    return await answer(request, job, ResponsesShape(fields, keep))


async def get_response(request: web.Request) -> web.Response:
    """A response as it was sent."""
    return json_response(_stored(request.app[STORE], request.match_info["id"], None).document)


async def delete_response(request: web.Request) -> web.Response:
    """Forget a response."""
    name = request.match_info["id"]
    _stored(request.app[STORE], name, None)
    request.app[STORE].delete(name)
    return json_response({"id": name, "object": "response", "deleted": True})


def _stored(store: ResponseStore, name: str, param: str | None) -> Stored:
    stored = store.get(name)
    if stored is None:
        message = f"no response {name[:100]!r} is kept here: the last ones are, in memory"
        raise ApiError(404, message, code="response_not_found", param=param)
    return stored


def _prepare(app: web.Application) -> None:
    app[STORE] = ResponseStore()


_PATH = "/v1/responses"

API = Api(
    "responses",
    (
        Route(
            hdrs.METH_POST,
            _PATH,
            responses,
            {JSON: Response, EVENTS: Any},
            ResponsesRequest,
            ANSWER_ERRORS,
        ),
        Route(hdrs.METH_GET, f"{_PATH}/{{id}}", get_response, {JSON: Response}, errors=(404,)),
        Route(
            hdrs.METH_DELETE,
            f"{_PATH}/{{id}}",
            delete_response,
            {JSON: DeletedResponse},
            errors=(404,),
        ),
    ),
    prepare=_prepare,
)

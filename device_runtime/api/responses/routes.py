"""POST /v1/responses and the count of its tokens; GET and DELETE of responses that are kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import hdrs, web

from device_runtime.api.answer.sending import answer, json_response
from device_runtime.api.description.table import (
    ANSWER_ERRORS,
    EVENTS,
    JSON,
    MODEL_ERRORS,
    Api,
    Route,
)
from device_runtime.api.errors import ApiError, as_api_error, unsupported
from device_runtime.api.job.plan import encoded_chat
from device_runtime.api.manners.middleware import new_name, request_id_of
from device_runtime.api.request.body import ChatRequest, read_request
from device_runtime.api.request.tool_fields import offer_of
from device_runtime.api.responses.conversation import Placed, placed
from device_runtime.api.responses.documents import DeletedResponse, InputTokens, Response
from device_runtime.api.responses.plan import chat_of, in_own_words, plan_response
from device_runtime.api.responses.request import Item, ResponsesRequest
from device_runtime.api.responses.shape import ResponsesShape, response_id
from device_runtime.api.responses.store import ResponseStore, Stored
from device_runtime.api.service import SERVICE
from device_runtime.calling.reader import HalfCallError
from device_runtime.generation.grammar import GrammarError

STORE = web.AppKey("responses", ResponseStore)


async def responses(request: web.Request) -> web.StreamResponse:
    """Go on from some items, and perhaps from an earlier response."""
    service = request.app[SERVICE]
    arrived_s = service.metrics.clock()
    fields = await read_request(request, ResponsesRequest, service.timing.read_s)
    items = _items(request, fields)
    chat = chat_of(fields, items)
    try:
        job = await plan_response(service, fields, chat, request_id_of(request), arrived_s)
        name = response_id(new_name())
        keep = _Keeping(request.app[STORE], name, fields, items)
        sampling = job.choices[0].generation.sampling
        shape = ResponsesShape(fields, name, sampling, service.tokenizer, service.unix_clock, keep)
        return await answer(request, job, shape)
    except (ApiError, HalfCallError, GrammarError) as error:
        known = as_api_error(error)
        assert known is not None, "these are known"
        raise in_own_words(known, fields) from error


async def count_input_tokens(request: web.Request) -> web.Response:
    """How long a conversation is for the model."""
    service = request.app[SERVICE]
    fields = await read_request(request, ResponsesRequest, service.timing.read_s)
    chat: ChatRequest = chat_of(fields, _items(request, fields))
    try:
        service.model.check(chat.model)
        encoded = await encoded_chat(service, chat, offer_of(chat))
    except ApiError as error:
        raise in_own_words(error, fields) from error
    return json_response(InputTokens(object="response.input_tokens", input_tokens=len(encoded.ids)))


async def get_response(request: web.Request) -> web.Response:
    """A response as it was sent."""
    if request.query.get("stream", "false") != "false":
        raise unsupported("stream", "stream is not supported here; leave it out")
    return json_response(_stored(request.app[STORE], request.match_info["id"], None).document)


async def delete_response(request: web.Request) -> web.Response:
    """Forget a response."""
    name = request.match_info["id"]
    _stored(request.app[STORE], name, None)
    request.app[STORE].delete(name)
    return json_response({"id": name, "object": "response", "deleted": True})


async def cancel_response(request: web.Request) -> web.Response:
    """Refused: only responses in the background can be cancelled, and there are none.

    Raises:
        ApiError: 400, or 404 where there is no such response.
    """
    _stored(request.app[STORE], request.match_info["id"], None)
    message = "Cannot cancel a synchronous response: its client leaves, and it ends"
    raise ApiError(400, message, code="invalid_request", param="id")


class _Keeping:
    """Keeps a finished response, unless its request does not want that."""

    def __init__(
        self, store: ResponseStore, name: str, request: ResponsesRequest, items: Sequence[Placed]
    ) -> None:
        self._store = store
        self._name = name
        self._is_wanted = request.store is not False
        self._items = items

    def __call__(self, document: Mapping[str, Any]) -> None:
        if not self._is_wanted:
            return
        said = msgspec.convert(document["output"], list[Item])
        items = (*(each.item for each in self._items), *said)
        num_bytes = len(msgspec.json.encode((items, document)))
        own = {item.id: item for item in said if item.id is not None}
        self._store.put(self._name, Stored(items, document, num_bytes, own))


def _items(request: web.Request, fields: ResponsesRequest) -> list[Placed]:
    """All items of the conversation; those that are referred to are put in their places.

    Raises:
        ApiError: 404, a response or an item that is not kept here.
    """
    store = request.app[STORE]
    earlier: Sequence[Item] = ()
    if fields.previous_response_id is not None:
        earlier = _stored(store, fields.previous_response_id, "previous_response_id").items
    return [_referred(store, each) for each in placed(earlier, fields.input)]


def _referred(store: ResponseStore, given: Placed) -> Placed:
    if given.item.kind != "item_reference":
        return given
    item_id = given.item.id or ""
    item = store.item(item_id)
    if item is None:
        where = f"{given.where}.id"
        message = (
            f"{where}: no item {item_id[:100]!r} is kept here; those of the last responses are, "
            "in memory, unless store was false: send the item itself"
        )
        raise ApiError(404, message, code="item_not_found", param=where)
    return Placed(item, given.where)


def _stored(store: ResponseStore, name: str, param: str | None) -> Stored:
    stored = store.get(name)
    if stored is None:
        kept = "the last ones are kept here, in memory, unless store was false"
        message = f"Response with id {name[:100]!r} not found: {kept}"
        raise ApiError(404, message, code="response_not_found", param=param)
    return stored


def _prepare(app: web.Application) -> None:
    app[STORE] = ResponseStore()


_PATH = "/v1/responses"
# The name of another route is no id.
_ONE = _PATH + "/{id:(?!input_tokens$)[^/]+}"

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
        Route(
            hdrs.METH_POST,
            f"{_PATH}/input_tokens",
            count_input_tokens,
            {JSON: InputTokens},
            ResponsesRequest,
            (*MODEL_ERRORS, 429),
        ),
        Route(hdrs.METH_GET, _ONE, get_response, {JSON: Response}, errors=(404,)),
        Route(
            hdrs.METH_DELETE,
            _ONE,
            delete_response,
            {JSON: DeletedResponse},
            errors=(404,),
        ),
        Route(hdrs.METH_POST, f"{_PATH}/{{id}}/cancel", cancel_response, {}, errors=(400, 404)),
    ),
    prepare=_prepare,
)

"""From a checked job to bytes on the socket: one document, or a stream of events."""

import asyncio
import gc
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET

from device_runtime.api.errors import ApiError, invalid
from device_runtime.api.figures import timing_headers
from device_runtime.api.job.plan import Job
from device_runtime.api.request.body import decode_request
from device_runtime.api.request.expectations import ask_for_body
from device_runtime.api.response.answers import Answers
from device_runtime.api.response.event_stream import stream_answer
from device_runtime.api.response.messages import usage_of
from device_runtime.api.response.shape import AnswerShape, Head, join_pieces
from device_runtime.api.response.transcript import Piece
from device_runtime.api.service import SERVICE, Service
from process.listening.patient_handler import unproven

# A longer body can hold enough to keep streams and probes waiting while it is looked through.
_LONG_BODY_BYTES = 32 << 10

RequestT = TypeVar("RequestT", bound=msgspec.Struct)


async def read_request(request: web.Request, kind: type[RequestT]) -> RequestT:
    """The body as a request. Any content type but a form with files is read as JSON.

    Raises:
        ApiError: 400, 408 or 415.
        HTTPRequestEntityTooLarge: the body is longer than the server takes.
    """
    if request.content_type.startswith("multipart/"):
        message = f"expected application/json, got {request.content_type[:60]}"
        raise ApiError(415, message, code="unsupported_media_type")
    ask_for_body(request)
    read_s = request.app[SERVICE].timing.read_s
    try:
        with unproven(request):
            async with asyncio.timeout(read_s):
                body = await request.read()
    except TimeoutError as error:
        message = f"the request body did not come within {read_s:g} s"
        raise ApiError(408, message, code="request_timeout") from error
    except web.RequestPayloadError as error:
        message = "the request body ended too early, or does not fit its Transfer-Encoding"
        raise invalid(None, message, code="invalid_body") from error
    if len(body) < _LONG_BODY_BYTES:
        return decode_request(body, kind)
    return await asyncio.to_thread(_decode_long, body, kind)


def _decode_long(body: bytes, kind: type[RequestT]) -> RequestT:
    """The request in a long body, in a thread.

    The decoder keeps Python's interpreter lock, and what makes it slow is the collector: for each
    of half a million empty lists it would look at all the others again.
    """
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        return decode_request(body, kind)
    finally:
        if was_collecting:
            gc.enable()


def make_head(service: Service, prefix: str, request_id: str) -> Head:
    """The head of an answer, dated now."""
    model = service.model
    return Head(
        f"{prefix}-{request_id}", int(service.unix_clock()), model.id, model.system_fingerprint
    )


async def answer(request: web.Request, job: Job, shape: AnswerShape) -> web.StreamResponse:
    """Generate and send. The client's leaving cancels this, and with it the generations.

    Raises:
        ApiError, CloudUnavailableError, OverloadedError: before anything was sent.
    """
    if job.stream is not None:
        return await stream_answer(request, job, shape)
    service = request.app[SERVICE]
    pieces: dict[int, list[Piece]] = {choice.index: [] for choice in job.choices}
    with service.drain.request():
        async with Answers(service, job) as answers:
            while (piece := await answers.next_piece()) is not None:
                pieces[piece.index].append(piece)
            figures = await answers.figures()
            num_cached_tokens = answers.num_cached_tokens()
    whole = [join_pieces(parts) for parts in pieces.values()]
    num_tokens = sum(each.num_tokens for each in whole)
    usage = usage_of(job.num_prompt_tokens, num_tokens, num_cached_tokens)
    document = shape.document(whole, usage, figures if job.wants_figures else UNSET)
    return json_response(document, headers=timing_headers(figures))


def json_response(
    value: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A value as a JSON document."""
    body = msgspec.json.encode(value)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")

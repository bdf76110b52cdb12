"""From a checked job to bytes on the socket: one document, or a stream of events."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import msgspec
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

from device_runtime.api.answer.answers import Answers, StillSilentError
from device_runtime.api.answer.shape import AnswerShape, Begun
from device_runtime.api.answer.transcript import Piece, join_pieces
from device_runtime.api.errors import ApiError, as_api_error, internal_error
from device_runtime.api.figures import LONE_HEADERS, timing_headers
from device_runtime.api.job.plan import Job
from device_runtime.api.request.traces import Trace, trace_of
from device_runtime.api.service import SERVICE, Service
from process.listening.patient_handler import PatientHandler
from process.program.logs import describe_error, with_fields

IS_ANSWERED = web.RequestKey("is_answered", bool)
"""Set on a request whose stream has been sent to its end; the client may leave at once."""

_logger = logging.getLogger(__name__)


class ClientGoneError(Exception):
    """Nobody reads the stream any more."""


async def answer(request: web.Request, job: Job, shape: AnswerShape) -> web.StreamResponse:
    """Generate and send. The client's leaving cancels this, and with it the generations.

    Raises:
        ApiError, CloudUnavailableError, OverloadedError: before anything was sent.
    """
    service = request.app[SERVICE]
    job = _traced(job, trace_of(request))
    begun = Begun(
        request_id=job.request_id,
        created=int(service.unix_clock()),
        model=service.model.id,
        system_fingerprint=service.model.system_fingerprint,
    )
    if job.is_streamed:
        return await _stream(request, job, shape, begun)
    pieces: dict[int, list[Piece]] = {choice.index: [] for choice in job.choices}
    with service.drain.request():
        async with Answers(service, job) as answers:
            while (piece := await answers.next_piece()) is not None:
                pieces[piece.index].append(piece)
            figures = await answers.figures()
    wholes = [join_pieces(parts) for parts in pieces.values()]
    is_alone = any(whole.is_alone for whole in wholes)
    shown = figures if job.wants_figures or is_alone else None
    if is_alone:
        begun = _lone(service, begun)
    document = shape.document(begun, wholes, answers.counts(), shown)
    return json_response(document, headers=timing_headers(figures))


def _traced(job: Job, trace: Trace) -> Job:
    """The same job as a part of a trace, and so are its choices."""
    choices = tuple(
        replace(choice, generation=replace(choice.generation, trace_id=trace.trace_id))
        for choice in job.choices
    )
    return replace(job, choices=choices, trace=trace)


def json_response(
    value: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A value as a JSON document."""
    body = msgspec.json.encode(value)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


async def _stream(
    request: web.Request, job: Job, shape: AnswerShape, begun: Begun
) -> web.StreamResponse:
    """Send pieces as they are decided.

    The status waits for the first piece, so that an error before it has a status of its own; only
    when that takes longer than a ping's time the 200 goes out with the ping. An error after that
    is an event, and the last one.

    Raises:
        ApiError, CloudUnavailableError, OverloadedError: nothing was sent yet.
    """
    service = request.app[SERVICE]
    events = _EventStream(request, shape, service.timing.write_s)
    try:
        with service.drain.request():
            async with Answers(service, job) as answers:
                await _send_pieces(service, job, shape, begun, answers, events)
    except ApiError as error:
        await events.fail(error)
    except ClientGoneError:
        _logger.debug("the client of a stream left")
    except Exception as error:
        known = as_api_error(error)
        if known is None:
            told = with_fields(trace_id=trace_of(request).trace_id.hex())
            _logger.error("a stream failed: %s", describe_error(error), extra=told)
        await events.fail(known or internal_error())
    return events.response


def _lone(service: Service, begun: Begun) -> Begun:
    """The same of an answer that the draft model gives alone."""
    return replace(begun, system_fingerprint=service.model.lone_fingerprint, is_alone=True)


async def _send_pieces(
    service: Service,
    job: Job,
    shape: AnswerShape,
    begun: Begun,
    answers: Answers,
    events: "_EventStream",
) -> None:
    is_alone = False
    while True:
        try:
            piece = await answers.next_piece(service.timing.ping_s)
        except StillSilentError:
            await events.write(shape.ping)
            continue
        if piece is None:
            break
        told_by = _lone(service, begun) if piece.is_alone else begun
        if piece.is_alone and not is_alone:
            is_alone = True
            events.mark(LONE_HEADERS)
        if told := shape.piece(told_by, piece, answers.counts):
            await events.write(told)
    figures = await answers.figures() if job.wants_figures else None
    last = _lone(service, begun) if is_alone else begun
    await events.write(shape.end(last, answers.counts(), figures))
    await events.end()


class _EventStream:
    """The response, begun with the first write."""

    def __init__(self, request: web.Request, shape: AnswerShape, write_timeout_s: float) -> None:
        self.response = web.StreamResponse(headers=shape.headers)
        self._shape = shape
        if request.version < HttpVersion11:
            # Without chunks only the end of the connection ends the stream, whatever was asked.
            self.response.headers[hdrs.CONNECTION] = "close"
            self.response.force_close()
        self._request = request
        self._write_timeout_s = write_timeout_s

    def mark(self, headers: Mapping[str, str]) -> None:
        """Add headers, if they have not gone out with a ping."""
        if not self.response.prepared:
            self.response.headers.update(headers)

    async def write(self, data: bytes) -> None:
        """Send bytes now.

        Raises:
            ClientGoneError: it has left, or has not read anything for too long.
        """
        try:
            if not self.response.prepared:
                await self.response.prepare(self._request)
                self._fill_with(self._shape.ping)
            async with asyncio.timeout(self._write_timeout_s):
                await self.response.write(data)
        except TimeoutError as error:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ClientGoneError("the client does not read") from error
        except ConnectionError as error:
            raise ClientGoneError("the client has left") from error

    async def end(self) -> None:
        """Send the end of the response."""
        self._fill_with(None)
        try:
            await self.response.write_eof()
            self._request[IS_ANSWERED] = True
        except ConnectionError as error:
            raise ClientGoneError("the client has left") from error

    async def fail(self, error: ApiError) -> None:
        """End the stream with an error; raise it when nothing has been sent yet."""
        if not self.response.prepared:
            raise error
        with suppress(ClientGoneError):
            await self.write(self._shape.failure(error))
            await self.end()

    def _fill_with(self, comment: bytes | None) -> None:
        """What the connection may write by itself to see whether the client is there."""
        if comment is not None and self._request.version >= HttpVersion11:
            comment = b"%x\r\n%s\r\n" % (len(comment), comment)
        protocol = self._request.protocol
        if isinstance(protocol, PatientHandler):
            protocol.fill_with(comment)

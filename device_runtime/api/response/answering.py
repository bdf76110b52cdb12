"""From a checked job to bytes on the socket: one document, or a stream of events."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress

import msgspec
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11
from msgspec import UNSET

from device_runtime.api.errors import ApiError, as_api_error, internal_error
from device_runtime.api.figures import timing_headers
from device_runtime.api.job.plan import Job, StreamMode
from device_runtime.api.response.answers import Answers, StillSilentError
from device_runtime.api.response.messages import Usage, usage_of
from device_runtime.api.response.shape import AnswerShape, ChunkUsage, Head, join_pieces, with_end
from device_runtime.api.response.transcript import Piece
from device_runtime.api.service import SERVICE, Service
from process.listening.patient_handler import PatientHandler
from process.program.logs import describe_error

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    # nginx would otherwise collect the events before passing them on.
    "X-Accel-Buffering": "no",
}
IS_ANSWERED = web.RequestKey("is_answered", bool)
"""Set on a request whose stream has been sent to its end; the client may leave at once."""

_PING = b": ping\n\n"
_DONE = b"data: [DONE]\n\n"

_logger = logging.getLogger(__name__)


class ClientGoneError(Exception):
    """Nobody reads the stream any more."""


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
        return await _stream(request, job, shape)
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


async def _stream(request: web.Request, job: Job, shape: AnswerShape) -> web.StreamResponse:
    """Send pieces as they are decided.

    The status waits for the first piece, so that an error before it has a status of its own; only
    when that takes longer than a ping's time the 200 goes out with the ping. An error after that
    is an event, and the last one.

    Raises:
        ApiError, CloudUnavailableError, OverloadedError: nothing was sent yet.
    """
    service = request.app[SERVICE]
    events = _EventStream(request, service.timing.write_s)
    try:
        with service.drain.request():
            async with Answers(service, job) as answers:
                await _send_pieces(service, job, shape, answers, events)
    except ApiError as error:
        await events.fail(error)
    except ClientGoneError:
        _logger.debug("the client of a stream left")
    except Exception as error:
        known = as_api_error(error)
        if known is None:
            _logger.error("a stream failed: %s", describe_error(error))
        await events.fail(known or internal_error())
    return events.response


async def _send_pieces(
    service: Service, job: Job, shape: AnswerShape, answers: Answers, events: "_EventStream"
) -> None:
    assert job.stream is not None
    usage = _StreamUsage(job.stream, job.num_prompt_tokens, answers)
    while True:
        try:
            piece = await answers.next_piece(service.timing.ping_s)
        except StillSilentError:
            await events.write(_PING)
            continue
        if piece is None:
            break
        so_far = usage.after(piece)
        await events.write(b"".join(_event(shape.chunk(part, so_far)) for part in with_end(piece)))
    if job.stream.include_usage or job.wants_figures:
        total = usage.total() if job.stream.include_usage else UNSET
        figures = await answers.figures() if job.wants_figures else UNSET
        await events.write(_event(shape.last_chunk(total, figures)))
    await events.write(_DONE)
    await events.end()


class _StreamUsage:
    """The tokens of a stream so far."""

    def __init__(self, mode: StreamMode, num_prompt_tokens: int, answers: Answers) -> None:
        self._mode = mode
        self._answers = answers
        self._num_prompt_tokens = num_prompt_tokens
        self._num_tokens: dict[int, int] = {}

    def after(self, piece: Piece) -> ChunkUsage:
        """What a piece's chunk says about usage."""
        self._num_tokens[piece.index] = piece.num_tokens
        if not self._mode.include_usage:
            return UNSET
        return self.total() if self._mode.continuous_usage else None

    def total(self) -> Usage:
        """All tokens of all choices."""
        num_tokens = sum(self._num_tokens.values())
        return usage_of(self._num_prompt_tokens, num_tokens, self._answers.num_cached_tokens())


class _EventStream:
    """The response, begun with the first write."""

    def __init__(self, request: web.Request, write_timeout_s: float) -> None:
        self.response = web.StreamResponse(headers=_HEADERS)
        if request.version < HttpVersion11:
            # Without chunks only the end of the connection ends the stream, whatever was asked.
            self.response.headers[hdrs.CONNECTION] = "close"
            self.response.force_close()
        self._request = request
        self._write_timeout_s = write_timeout_s

    async def write(self, data: bytes) -> None:
        """Send bytes now.

        Raises:
            ClientGoneError: it has left, or has not read anything for too long.
        """
        try:
            if not self.response.prepared:
                await self.response.prepare(self._request)
                self._fill_with(_PING)
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
            await self.write(b"data: " + error.encode() + b"\n\n")
            await self.end()

    def _fill_with(self, comment: bytes | None) -> None:
        """What the connection may write by itself to see whether the client is there."""
        if comment is not None and self._request.version >= HttpVersion11:
            comment = b"%x\r\n%s\r\n" % (len(comment), comment)
        protocol = self._request.protocol
        if isinstance(protocol, PatientHandler):
            protocol.fill_with(comment)


def _event(chunk: object) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"

"""aiohttp's handler of one connection, with deadlines and bounds of its own."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.http_websocket import WebSocketReader
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from process.listening.door import Visit
from process.listening.guard import Guard
from process.listening.refusals import FULL, HeadTooLongError, as_bytes, of_parser
from process.listening.threshold import Threshold

_LATE_S = 0.25
"""A deadline that comes so much later than it was set for comes to a process that stood still: was
stopped, swapped out or moved to another machine. What the peer sent meanwhile is yet to be read."""

_LONGEST_HEADS = 2
"""A request line and header fields, each of full length; and the line ends, names and version."""


class GuardedHandler(RequestHandler):
    """One connection: a deadline for its requests' heads, a bound on what nobody reads."""

    __slots__ = ("_deadline", "_guard", "_head", "_pending_bytes", "_stall", "_threshold", "visit")

    def __init__(self, manager: web.Server, guard: Guard, **options: Any) -> None:
        super().__init__(manager, lingering_time=0, **options)
        self._guard = guard
        self._head = bytearray()
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._pending_bytes = 0
        self._threshold: Threshold | None = None
        self.visit: Visit | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the connection in, unless a gate before this one has."""
        # uvloop's transports are no subclass of asyncio's.
        plain_transport = cast(asyncio.Transport, transport)
        if self.visit is None:
            visit = new_visit(self._guard, plain_transport, self._loop.time())
            if not self._guard.enter(visit):
                plain_transport.write(as_bytes(self._guard.refuse(FULL)))
                plain_transport.close()
                self._force_close = True
                return
            self.visit = visit
        self.visit.put_out = plain_transport.abort
        super().connection_made(transport)
        self.set_deadline(self._guard.limits.head_timeout_s)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        for timer in (self._deadline, self._stall):
            if timer is not None:
                timer.cancel()
        if self.visit is not None:
            self._guard.door.leave(self.visit)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse on, and keep the head of a request until it is whole."""
        if not self._is_between_requests or not data:
            super().data_received(data)
            return
        if not self._head and self._request_count:
            self.set_deadline(self._guard.limits.head_timeout_s)
            if self.visit is not None:
                self.visit.begun_s = self._loop.time()
        self._head += data
        num_requests = self._request_count
        super().data_received(data)
        if self._request_count > num_requests:
            if not (self._messages and isinstance(self._messages[-1][0], _ErrInfo)):
                self._head.clear()
        elif len(self._head) > (_LONGEST_HEADS + 1) * self._guard.limits.max_head_bytes:
            self._refuse_head()

    def pause_writing(self) -> None:
        """The peer does not take what is sent to it: look again whether it takes anything."""
        super().pause_writing()
        self._pending_bytes = -1
        self._watch_stall()

    def resume_writing(self) -> None:
        """The peer reads on."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().resume_writing()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the response, throw away a little of a body that nobody read, and wait again."""
        result = await super().finish_response(request, resp, start_time)
        if not result[1]:
            await self._drain(request)
        self.doubt(None)
        return result

    def set_parser(
        self,
        parser: WebSocketReader,
        data_received_cb: Callable[[], None] | None = None,
    ) -> None:
        """Give what comes to a WebSocket's reader, over the threshold if there is one."""
        if self._threshold is None:
            super().set_parser(parser, data_received_cb)
            return
        self._threshold.guard(parser)
        # It has the two methods of a reader that are called from here.
        guarded: Any = self._threshold
        super().set_parser(guarded, data_received_cb)

    def hold_back(self, max_bytes: int) -> Threshold:
        """Before a WebSocket is prepared: take one message of so many bytes until it is opened."""
        assert self.transport is not None
        self._threshold = Threshold(max_bytes, self.transport)
        return self._threshold

    def set_deadline(self, delay_s: float) -> None:
        """Cut the connection off so much later, unless `prove` comes before."""
        self._cut_off_at(self._loop.time() + delay_s)

    def clear_deadline(self) -> None:
        """No deadline any more."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def doubt(self, until_s: float | None) -> None:
        """The connection has to show what it is for, until then at the latest, if a time is given.

        Until it does it makes room for others.
        """
        self.clear_deadline()
        if until_s is not None:
            self._cut_off_at(until_s)
        if self.visit is not None:
            self._guard.door.doubt(self.visit)

    def prove(self) -> None:
        """The connection is at work: no deadline, and it makes room for nobody."""
        self.clear_deadline()
        if self.visit is not None:
            self._guard.door.prove(self.visit)

    @property
    def _is_between_requests(self) -> bool:
        """Whether what comes now is the head of a request."""
        if self._upgraded or self._payload_parser is not None:
            return False
        waiter = self._waiter
        return self._request_count == 0 or (waiter is not None and not waiter.done())

    def _make_error_handler(
        self, err_info: _ErrInfo
    ) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """What the parser refused, in the application's words."""

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            refusal = of_parser(err_info.exc, bytes(self._head), self._guard.limits)
            self._say(f"{refusal.status} {refusal.code}")
            response = self._guard.refuse(refusal)
            response.force_close()
            return response

        return handler

    def _refuse_head(self) -> None:
        error = HeadTooLongError()
        self._messages.append((_ErrInfo(431, error, error.message), EMPTY_PAYLOAD))
        self._request_count += 1
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _drain(self, request: web.BaseRequest) -> None:
        payload, num_bytes = request.content, 0
        try:
            async with asyncio.timeout(self._guard.limits.unread_timeout_s):
                while not payload.is_eof() and num_bytes < self._guard.limits.max_unread_bytes:
                    num_bytes += len(await payload.readany())
        except TimeoutError:
            return
        except (web.RequestPayloadError, ConnectionError):
            self.close()

    def _cut_off_at(self, when_s: float) -> None:
        self.clear_deadline()
        self._deadline = self._loop.call_at(when_s, self._too_late, when_s)

    def _too_late(self, due_s: float) -> None:
        self._deadline = None
        if self._loop.time() > due_s + _LATE_S:
            self.set_deadline(_LATE_S)
            return
        self._say("no request in time")
        self._abort()

    def _watch_stall(self) -> None:
        if self.transport is None:
            return
        pending = self.transport.get_write_buffer_size()
        if pending == self._pending_bytes:
            self._say("it takes nothing of what is sent to it")
            self._abort()
            return
        self._pending_bytes = pending
        self._stall = self._loop.call_later(self._guard.limits.stall_timeout_s, self._watch_stall)

    def _say(self, reason: str) -> None:
        if self.visit is not None:
            self._guard.say(self.visit, reason)

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


def new_visit(guard: Guard, transport: asyncio.Transport, now: float) -> Visit:
    """A connection that has just been accepted."""
    peer = transport.get_extra_info("peername")
    host = str(peer[0]) if isinstance(peer, tuple) and peer else ""
    return Visit(host, guard.address_of(host), now, transport.abort)

"""A guarded connection whose client may stop sending before it has its answer.

The end of what a client sends looks the same whether it has only closed that half, as `nc` and some
proxies do, or has left. What tells them apart is to write: a machine whose program has left answers
with a reset. So bytes are written now and then that do no harm, such as the first ones of the
answer, which are the same whatever it will be.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader

from process.listening.guard import Guard
from process.listening.handler import GuardedHandler

_ANSWERS_BEGIN = b"HTTP/"
"""Every answer begins with these bytes, so each of them can be sent ahead of it."""

# It takes two writes: the reset answers the first, the second fails. So a client that leaves at
# once is noticed after 0.2 s and a round trip, and one that leaves later by the next byte.
_DELAYS_S = (0.05, 0.15, 0.8, 7.0, 52.0)


class PatientHandler(GuardedHandler):
    """Answers every whole request that came before the end of what the client sends.

    A request that is cut off, by that end or by bytes that are no HTTP, is told so at once.
    """

    __slots__ = ("_begun", "_body", "_filler", "_has_ended", "_is_cut_off", "_num_done", "_probes")

    def __init__(self, manager: web.Server, guard: Guard, **options: Any) -> None:
        super().__init__(manager, guard, **options)
        self._begun: _BegunTransport | None = None
        self._body: StreamReader | None = None
        self._filler: bytes | None = None
        self._has_ended = False
        self._is_cut_off = False
        self._num_done = 0
        self._probes: _Probes | None = None

    def data_received(self, data: bytes) -> None:
        """Parse on, and remember whose body is still to come."""
        super().data_received(data)
        if not self._messages:
            return
        message, body = self._messages[-1]
        if isinstance(message, RawRequestMessage):
            self._body = body
        else:
            self._cut_off()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more: stay for what it has asked for, as long as it is there."""
        if self.transport is None or self._is_idle:
            return False
        self._has_ended = True
        self._cut_off()
        self._begun = _BegunTransport(self.transport)
        self.transport = cast(asyncio.Transport, self._begun)
        self._probes = _Probes(self._loop, self._probe)
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client has left."""
        if self._probes is not None:
            self._probes.stop()
        self._begun = None
        super().connection_lost(exc)

    def fill_with(self, filler: bytes | None) -> None:
        """What can be written at any time while a stream is silent; None: it has ended."""
        self._filler = filler

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the response; after the last one nothing is waited for."""
        self._filler = None
        # Asked twice, since the client may stop sending while a stream goes on.
        self._close_after_last(resp)
        result = await super().finish_response(request, resp, start_time)
        self._close_after_last(result[0])
        self._num_done += 1
        return result

    @property
    def _is_idle(self) -> bool:
        return self._num_done == self._request_count

    def _close_after_last(self, response: web.StreamResponse) -> None:
        if self._is_cut_off or (self._has_ended and not self._messages):
            response.force_close()

    def _cut_off(self) -> None:
        """End a body that will not come whole; whoever reads it is told."""
        if self._body is not None and not self._body.is_eof():
            self._is_cut_off = True
            self._body.set_exception(web.RequestPayloadError("the body was cut off"))
            self._body.feed_eof()

    def _probe(self) -> bool:
        """Write something harmless, if an answer is still to come."""
        if self._begun is None or self._begun.is_closing() or self._is_idle:
            return False
        if self._filler is not None:
            if not self.writing_paused:
                self._begun.write(self._filler)
            return True
        request = self._current_request
        if request is not None and request.writer.output_size:
            return True
        return self._begun.send_ahead()


class _Probes:
    """Calls `probe` after growing pauses, until it returns False or there were `_DELAYS_S`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, probe: Callable[[], bool]) -> None:
        self._loop = loop
        self._probe = probe
        self._delays = iter(_DELAYS_S)
        self._handle: asyncio.TimerHandle | None = None
        self._wait()

    def stop(self) -> None:
        """Call no more."""
        if self._handle is not None:
            self._handle.cancel()

    def _wait(self) -> None:
        delay_s = next(self._delays, None)
        self._handle = None if delay_s is None else self._loop.call_later(delay_s, self._fire)

    def _fire(self) -> None:
        if self._probe():
            self._wait()


class _BegunTransport:
    """A transport over which the first bytes of an answer can go ahead of the rest."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._num_ahead = 0

    def __getattr__(self, name: str) -> Any:
        """All else is the transport's own."""
        return getattr(self._transport, name)

    def send_ahead(self) -> bool:
        """Send one more byte of what every answer begins with; False when there is none left."""
        if self._num_ahead == len(_ANSWERS_BEGIN):
            return False
        self._transport.write(_ANSWERS_BEGIN[self._num_ahead : self._num_ahead + 1])
        self._num_ahead += 1
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes of the answer, but for those that have gone."""
        num_ahead, self._num_ahead = self._num_ahead, 0
        self._transport.write(memoryview(data)[num_ahead:] if num_ahead else data)

    def writelines(self, lines: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send several at once."""
        self.write(b"".join(lines))


@contextmanager
def unproven(request: web.BaseRequest) -> Iterator[None]:
    """While a request's body is awaited, its connection makes room for others like an idle one."""
    handler = request.protocol
    if not isinstance(handler, GuardedHandler) or request.content.is_eof():
        yield
        return
    handler.doubt(None)
    yield
    handler.prove()

"""An aiohttp server whose connections are guarded from the moment they are accepted."""

import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http import HttpVersion11, RawRequestMessage
from yarl import URL

from process.listening.guard import Guard
from process.listening.handler import GuardedHandler
from process.listening.listener import Listener, bind_all
from process.listening.refusals import HTTP_1, Refusal

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class GuardedRunner(web.AppRunner):
    """Runs an application behind a guard.

    Plain HTTP may be served by any of aiohttp's sites; `handler` is what serves a connection, and
    `options` are those of aiohttp's own runner.
    """

    __slots__ = ("_guard", "_handler")

    def __init__(
        self,
        app: web.Application,
        guard: Guard,
        handler: type[GuardedHandler] = GuardedHandler,
        **options: Any,
    ) -> None:
        limits = guard.limits
        super().__init__(
            app,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=limits.idle_timeout_s,
            max_line_size=limits.max_head_bytes,
            max_field_size=limits.max_head_bytes,
            max_headers=limits.max_headers,
            **options,
        )
        self._guard = guard
        self._handler = handler

    async def listen(
        self, host: str, port: int, tls: Callable[[], ssl.SSLContext] | None = None
    ) -> None:
        """Serve an address; port 0 takes a free one, and each connection asks for its TLS anew.

        Raises:
            OSError: it cannot be used.
        """
        await _Site(self, self._guard, host, port, tls).start()

    async def _make_server(self) -> web.Server:
        return _GuardedServer(await super()._make_server(), self._guard, self._handler)


class _Site(web.BaseSite):
    __slots__ = ("_context", "_guard", "_host", "_port")

    def __init__(
        self,
        runner: GuardedRunner,
        guard: Guard,
        host: str,
        port: int,
        context: Callable[[], ssl.SSLContext] | None,
    ) -> None:
        super().__init__(runner)
        self._guard = guard
        self._host = host
        self._port = port
        self._context = context

    @property
    def name(self) -> str:
        """Where it listens."""
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen on every address of the host."""
        await super().start()
        server = self._runner.server
        assert isinstance(server, _GuardedServer)
        sockets = bind_all(self._host, self._port)
        # All that aiohttp asks of a site's server is its sockets, and to close.
        listener: Any = Listener(sockets, self._guard, self._context, server)
        self._server = listener


class _GuardedServer(web.Server):
    def __init__(self, server: web.Server, guard: Guard, handler: type[GuardedHandler]) -> None:
        super().__init__(
            self._check_first(server.request_handler),
            request_factory=_with_target(server.request_factory),
            handler_cancellation=server.handler_cancellation,
            loop=server._loop,
            **server._kwargs,
        )
        self._guard = guard
        self._handler = handler

    def __call__(self) -> GuardedHandler:
        """The protocol of a connection that was just accepted."""
        return self._handler(self, self._guard, loop=self._loop, **self._kwargs)

    def _check_first(self, handle: _Handler) -> _Handler:
        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            protocol = handler_of(request)
            protocol.prove()
            if protocol.visit is None:
                return await handle(request)
            refusal = self._guard.check(request, protocol.visit)
            if refusal is None:
                try:
                    return await handle(request)
                except web.HTTPExpectationFailed:
                    # aiohttp's own, from before an application's middlewares.
                    refusal = Refusal(417, "expectation_failed", "Expect: not met here")
            self._guard.say(protocol.visit, f"{refusal.status} {refusal.code}")
            if request.version not in HTTP_1:
                request._version = HttpVersion11
            response = self._guard.refuse(refusal)
            response.force_close()
            return response

        return handler


def handler_of(request: web.BaseRequest) -> GuardedHandler:
    """The connection of a request that a guarded runner serves."""
    protocol = request.protocol
    assert isinstance(protocol, GuardedHandler)
    return protocol


def _with_target(make_request: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """aiohttp's parser lets `CONNECT` without a target pass, and its request then has no URL."""

    def make(message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
        # A class of C, whose fields have no types.
        whole: Any = message
        if whole.url is None:
            whole = whole._replace(path="/", url=URL("/"))
        return make_request(whole, *rest)

    return make

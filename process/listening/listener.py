"""Listening: one connection is accepted at a time, and others have a turn before the next.

With TLS a connection is counted and timed from its accept, before its handshake.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

from process.addresses import is_wildcard
from process.listening.door import Visit
from process.listening.guard import Guard
from process.listening.handler import GuardedHandler

_BACKLOG = 128

_BETWEEN_ACCEPTS_S = 0.001
"""A full backlog accepted at once keeps the interpreter from an engine's thread beside the loop.

Measured with 1,000 silent sockets, 99th percentile of a neighbour's verifications against quiet:
4.0 times with all at once, 1.4 with this pause.
"""

_PAUSE_S = 0.1
"""After an accept that failed: usually there are no files left, until some connection ends."""


class Listener:
    """Sockets that are accepted from; what aiohttp's sites expect of a server.

    `context` gives the one of a connection's TLS at the moment when it is made.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        guard: Guard,
        context: Callable[[], ssl.SSLContext] | None,
        make_handler: Callable[[], GuardedHandler],
    ) -> None:
        self.sockets = sockets
        self._guard = guard
        self._context = context
        self._make_handler = make_handler
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting = [self._loop.create_task(self._accept(each)) for each in sockets]

    def close(self) -> None:
        """Accept no more, and give up what has not shaken hands."""
        for task in (*self._accepting, *self._handshakes):
            task.cancel()
        for each in self.sockets:
            each.close()

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                accepted, _ = await self._loop.sock_accept(listener)
            except OSError as error:
                self._guard.log.say(logging.WARNING, "cannot accept connections: %s", error)
                await asyncio.sleep(_PAUSE_S)
                continue
            if self._context is None:
                await self._connect(accepted)
            else:
                task = self._loop.create_task(self._shake_hands(accepted, self._context()))
                self._handshakes.add(task)
                task.add_done_callback(self._handshakes.discard)
            await asyncio.sleep(_BETWEEN_ACCEPTS_S)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_handler, accepted)
        except OSError:
            accepted.close()
        except asyncio.CancelledError:
            accepted.close()
            raise

    async def _shake_hands(self, accepted: socket.socket, context: ssl.SSLContext) -> None:
        try:
            host = str(accepted.getpeername()[0])
        except OSError:
            accepted.close()
            return
        task = asyncio.current_task()
        assert task is not None
        visit = Visit(host, self._guard.address_of(host), self._loop.time(), _cancel(task))
        if not self._guard.enter(visit):
            accepted.close()
            return
        handler = self._make_handler()
        handler.visit = visit
        timeout_s = self._guard.limits.head_timeout_s
        try:
            await self._loop.connect_accepted_socket(
                lambda: handler,
                accepted,
                ssl=context,
                ssl_handshake_timeout=timeout_s,
                ssl_shutdown_timeout=timeout_s,
            )
        except OSError:
            # ssl.SSLError and every kind of lost connection are OSErrors.
            self._guard.say(visit, "no TLS handshake")
        finally:
            if handler.transport is None:
                self._guard.door.leave(visit)
                accepted.close()


def _cancel(task: asyncio.Task[None]) -> Callable[[], None]:
    def cancel() -> None:
        task.cancel()

    return cancel


def bind_all(host: str, port: int) -> list[socket.socket]:
    """A listening socket for every address of a host; port 0 takes a free one, the same for all.

    That on all addresses of IPv6 takes IPv4 as well, where the system has such sockets.

    Raises:
        OSError: an address cannot be used.
    """
    sockets: list[socket.socket] = []
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    is_both = ":" in host and is_wildcard(host) and socket.has_dualstack_ipv6()
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            taken = sockets[0].getsockname()[1] if sockets else port
            # Of IPv6 the rest says on which link an address is, such as one of fe80::/10.
            where = (address[0], taken, *address[2:])
            listener = socket.create_server(
                where, family=family, backlog=_BACKLOG, dualstack_ipv6=is_both
            )
            listener.setblocking(False)
            sockets.append(listener)
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets

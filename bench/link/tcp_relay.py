"""The link for those who are not root: TCP connections, relayed with rate and delay.

Right for latency and rate, but not for what TCP does over a real link: each side's TCP sees a
perfect connection to the relay, so there is no loss, no slow start and no congestion window. A full
buffer does not drop, it makes the sender wait. Results are labelled with this kind.
"""

import asyncio
import functools
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bench.link.shaped_link import LinkError, LinkKind, ShapedLink
from bench.link.shaper import Shaper, shaper_pairs
from bench.link.spec import LinkSpec

_HOST = "127.0.0.1"
_SEGMENT_BYTES = 1448
_OVERHEAD_BYTES = 66
"""Ethernet, IP and TCP headers of a segment, which take time on a real link."""

_SOCKET_BUFFER_BYTES = 16_384
_MAX_ON_THE_WAY = 8192
"""Reads that wait for a receiver which takes nothing; more than any link's delay holds."""

_START_S = 10.0


@contextmanager
def open_tcp_relays(spec: LinkSpec, num_links: int, seed: int) -> Iterator[tuple[ShapedLink, ...]]:
    """Links on this machine's loopback, served by a thread of their own.

    Raises:
        LinkError: troubles of packets or addresses, which a relay of TCP connections cannot have.
    """
    asked = {
        "lose packets": ("loss=0%", spec.loss),
        "reorder packets": ("reorder=0%", spec.reorder),
        "change addresses": ("no move", spec.move_s),
    }
    for what, (expected, is_asked) in asked.items():
        if is_asked:
            raise LinkError(
                f"a link of kind tcp cannot {what}; expected {expected}, or root's rights"
            )
    # The default selector waits for whole milliseconds.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    relays = [_TcpRelay(spec, pair, loop) for pair in shaper_pairs(spec, num_links, seed)]
    thread = threading.Thread(target=loop.run_forever, name="tcp-relay", daemon=True)
    thread.start()
    try:
        yield tuple(ShapedLink(LinkKind.TCP, spec, forward=relay.forward) for relay in relays)
    finally:
        asyncio.run_coroutine_threadsafe(_end(relays), loop).result(_START_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(relays: list["_TcpRelay"]) -> None:
    """End every connection; nothing else runs in this loop."""
    for relay in relays:
        relay.close()
    carrying = asyncio.all_tasks() - {asyncio.current_task()}
    for task in carrying:
        task.cancel()
    await asyncio.gather(*carrying, return_exceptions=True)


class _TcpRelay:
    """Both directions of one link, shared by all its connections. Belongs to one event loop."""

    def __init__(
        self, spec: LinkSpec, shapers: tuple[Shaper, Shaper], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._spec = spec
        self._uplink, self._downlink = shapers
        self._loop = loop
        self._start_s = loop.time()
        self._servers: dict[int, asyncio.Server] = {}

    def forward(self, port: int) -> int:
        """The port that leads to `port` over the link; called from another thread."""
        listening = asyncio.run_coroutine_threadsafe(self._listen(port), self._loop)
        return listening.result(_START_S)

    def close(self) -> None:
        """Take no more connections."""
        for server in self._servers.values():
            server.close()

    async def _listen(self, port: int) -> int:
        if port not in self._servers:
            listener = socket.create_server((_HOST, 0))
            _prepare(listener)  # what it accepts is then prepared as well
            self._servers[port] = await asyncio.start_server(
                functools.partial(self._carry, port), sock=listener, limit=_SEGMENT_BYTES
            )
        found: int = self._servers[port].sockets[0].getsockname()[1]
        return found

    async def _carry(
        self, port: int, device: asyncio.StreamReader, to_device: asyncio.StreamWriter
    ) -> None:
        to_cloud: asyncio.StreamWriter | None = None
        try:
            await asyncio.sleep(self._spec.rtt_s)  # a handshake over the link
            target = await self._connected(port)
            cloud, to_cloud = await asyncio.open_connection(sock=target, limit=_SEGMENT_BYTES)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(self._uplink, device, to_cloud))
                pumps.create_task(self._pump(self._downlink, cloud, to_device))
            to_cloud.close()
            to_device.close()
        except* OSError:  # one side is gone, so the other goes as well
            pass
        finally:
            for writer in (to_cloud, to_device):
                if writer is not None and not writer.is_closing():
                    writer.transport.abort()

    async def _connected(self, port: int) -> socket.socket:
        target = socket.socket()
        try:
            target.setblocking(False)
            _prepare(target)
            await self._loop.sock_connect(target, (_HOST, port))
        except BaseException:
            target.close()
            raise
        return target

    async def _pump(
        self, shaper: Shaper, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry one direction to its end; what is on its way is written when it is due."""
        on_its_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MAX_ON_THE_WAY)
        writing = asyncio.create_task(self._write(on_its_way, writer))
        try:
            while data := await reader.read(_SEGMENT_BYTES):
                num_bytes = len(data) + _OVERHEAD_BYTES
                # Other connections may take the room that this one has waited for.
                while (due_s := shaper.offer(self._now_s(), num_bytes)) is None:
                    room_s = shaper.room_s(self._now_s(), num_bytes)
                    await asyncio.sleep(room_s - self._now_s())
                await on_its_way.put((due_s, data))
            await on_its_way.put((0.0, b""))
            await writing
        finally:
            writing.cancel()

    async def _write(
        self, on_its_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due_s, data = await on_its_way.get()
            if (early_s := due_s - self._now_s()) > 0:
                await asyncio.sleep(early_s)
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    def _now_s(self) -> float:
        return self._loop.time() - self._start_s


def _prepare(sock: socket.socket) -> None:
    # Small, or the kernel would take what should wait before the link.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
    # asyncio does this only for sockets that were made with TCP's number.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

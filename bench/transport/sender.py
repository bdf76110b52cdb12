"""The device's end: an unprivileged program that sends messages when it is told.

`python -m bench.transport.sender HOST PORT WAY` reads numbers of bytes from standard input, a line
each, and answers each with the seconds from its first byte's sending to its last byte's coming.
The line `new` lets it begin anew, as after a start. WAY is the JSON of `SocketsWay`.
"""

import importlib
import os
import selectors
import socket
import sys
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from bench.link.namespaces import run_before_others
from bench.transport.receiver import ARRIVED, PART

_NOBODY = 65_534
_TIMEOUT_S = 60.0
_PIECE_BYTES = 65_536


class Way(Protocol):
    """How messages reach the cloud's end."""

    def send(self, num_bytes: int) -> float:
        """Send a message; seconds from its first byte's sending to its last byte's coming."""
        ...

    def close(self) -> None:
        """Give the connections up."""
        ...


class SocketsWay(msgspec.Struct, frozen=True, kw_only=True):
    """Plain TCP connections, over which each message is spread evenly."""

    connections: int = 1
    congestion: str | None = None
    """The congestion control of each; None: the kernel's own choice."""


class Sockets:
    """A `Way` over plain connections."""

    def __init__(self, host: str, port: int, way: SocketsWay) -> None:
        self._sockets = [connected(host, port, way.congestion) for _ in range(way.connections)]
        self._number = 0

    def send(self, num_bytes: int) -> float:
        """Parts of equal size, at once on all connections."""
        self._number += 1
        number, count = self._number, len(self._sockets)
        sizes = [num_bytes // count + (index < num_bytes % count) for index in range(count)]
        unsent = {
            sock: memoryview(PART.pack(number, size, num_bytes) + bytes(size))
            for sock, size in zip(self._sockets, sizes, strict=True)
        }
        began_s = time.monotonic()
        with selectors.DefaultSelector() as selector:
            for sock in self._sockets:
                selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
            while True:
                ready = selector.select(_TIMEOUT_S)
                if not ready:
                    raise TimeoutError(f"nothing moved for {_TIMEOUT_S:g} s")
                for key, events in ready:
                    ready_sock = key.fileobj
                    assert isinstance(ready_sock, socket.socket)
                    if events & selectors.EVENT_READ:
                        return _arrived_s(ready_sock, number) - began_s
                    rest = unsent[ready_sock]
                    unsent[ready_sock] = rest[ready_sock.send(rest[:_PIECE_BYTES]) :]
                    if not unsent[ready_sock]:
                        selector.modify(ready_sock, selectors.EVENT_READ)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


def connected(host: str, port: int, congestion: str | None) -> socket.socket:
    """A connection, with this congestion control if one is named.

    It is set once there is a route, which may have one of its own that would replace it.
    """
    sock = socket.create_connection((host, port), timeout=_TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if congestion is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
    return sock


def _arrived_s(sock: socket.socket, number: int) -> float:
    answer = sock.recv(ARRIVED.size, socket.MSG_WAITALL)
    if len(answer) < ARRIVED.size:
        raise ConnectionError("the cloud's end closed the connection")
    answered, arrived_s = ARRIVED.unpack(answer)
    if answered != number:
        raise ConnectionError(f"expected an answer to {number}, got one to {answered}")
    return float(arrived_s)


def become_nobody() -> None:
    """Go on without root's rights, if this process has them, but be punctual."""
    run_before_others()
    if os.geteuid() == 0:
        # Loaded when an address is looked up, from files that only root may read here and there.
        importlib.import_module("encodings.idna")
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)


def obey(make_way: Callable[[], Way]) -> None:
    """Send what standard input asks for, until it ends."""
    way = make_way()
    for line in sys.stdin:
        if line.strip() == "new":
            way.close()
            way = make_way()
            print(0.0, flush=True)
        else:
            print(way.send(int(line)), flush=True)


if __name__ == "__main__":
    become_nobody()
    _, host, port, asked = sys.argv
    sockets_way = msgspec.json.decode(asked, type=SocketsWay)
    obey(lambda: Sockets(host, int(port), sockets_way))

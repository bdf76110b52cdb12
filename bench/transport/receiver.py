"""The cloud's end: says when the last byte of each message had come.

`python -m bench.transport.receiver HOST` prints its port and serves until it is killed. A message
may come in parts over several connections. Its answer goes back on the one that ended it, with the
moment on the machine's monotonic clock, which both ends of a link on one machine share.
"""

import selectors
import socket
import struct
import sys
import time

from bench.link.namespaces import run_before_others

PART = struct.Struct("<III")
"""Before each part: the message's number, the part's bytes, the whole message's."""

ARRIVED = struct.Struct("<Id")
"""The answer: the message's number, and when its last byte had come."""

_READ_BYTES = 1 << 18


class Arrivals:
    """The bytes that are missing of each message, over all connections."""

    def __init__(self) -> None:
        self._missing: dict[int, int] = {}

    def on_bytes(self, message: int, num_bytes: int, total_bytes: int) -> bool:
        """So many more have come; whether the message is whole."""
        left = self._missing.pop(message, total_bytes) - num_bytes
        if left:
            self._missing[message] = left
        return not left


class Parts:
    """The parts that come over one connection, cut out of its stream of bytes."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._header = b""
        self._part = (0, 0, 0)
        self._left = 0

    def on_data(self, data: bytes) -> list[int]:
        """The messages that these bytes end."""
        ended = []
        while data:
            if not self._left:
                needed = PART.size - len(self._header)
                self._header, data = self._header + data[:needed], data[needed:]
                if len(self._header) < PART.size:
                    break
                self._part = PART.unpack(self._header)
                self._header, self._left = b"", self._part[1]
            taken = min(self._left, len(data))
            self._left, data = self._left - taken, data[taken:]
            message, _, total_bytes = self._part
            if taken and self._arrivals.on_bytes(message, taken, total_bytes):
                ended.append(message)
        return ended


def serve(host: str) -> None:
    """Print a port and answer all that comes."""
    selector = selectors.DefaultSelector()
    arrivals = Arrivals()
    with socket.create_server((host, 0), backlog=64) as listener:
        print(listener.getsockname()[1], flush=True)
        selector.register(listener, selectors.EVENT_READ, None)
        while True:
            for key, _ in selector.select():
                if key.data is None:
                    connection, _ = listener.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    selector.register(connection, selectors.EVENT_READ, Parts(arrivals))
                elif isinstance(key.fileobj, socket.socket) and not _read(key.fileobj, key.data):
                    selector.unregister(key.fileobj)
                    key.fileobj.close()


def _read(connection: socket.socket, parts: Parts) -> bool:
    """Take what is there; whether the connection goes on."""
    try:
        data = connection.recv(_READ_BYTES)
        now_s = time.monotonic()
        for message in parts.on_data(data):
            connection.sendall(ARRIVED.pack(message, now_s))
    except OSError:
        return False
    return bool(data)


if __name__ == "__main__":
    run_before_others()
    serve(sys.argv[1])

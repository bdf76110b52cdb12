"""The device's end: uploads without pause, and between or beside that small urgent messages.

`python -m bench.transport.uploader HOST PORT WORK` uploads for WORK's seconds and prints what came
through as JSON. With one connection an urgent message goes between two frames of the upload, so
only what the kernel holds is before it; with two it has its own.
"""

import selectors
import socket
import sys
import time
from collections import deque

import msgspec

from bench.transport.receiver import ARRIVED, PART
from bench.transport.sender import become_nobody, connected
from process.sockets.tcp import keep_unsent_short

_FRAME_BYTES = 16_384
_UNSENT_BYTES = 65_536
"""As a device keeps it."""

_LAST_S = 5.0
"""For urgent messages that are on their way when time is up."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What to do."""

    seconds: float
    congestion: str | None = None
    is_urgent_apart: bool = False
    """Whether urgent messages have a connection of their own."""
    urgent_bytes: int = 8192
    urgent_every_s: float = 0.1
    """0: none."""
    has_bulk: bool = True


class Uploaded(msgspec.Struct, frozen=True, kw_only=True):
    """What came through."""

    bulk_bytes_per_s: float
    urgent_s: tuple[float, ...]
    """From when each urgent message was due to its answer."""
    num_unanswered: int
    congestion: str


class _Lane:
    """One connection: what is still to be written, and what was answered."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._rest = memoryview(b"")
        self._read = b""

    @property
    def is_between_frames(self) -> bool:
        """Whether the last frame went to the kernel whole."""
        return not self._rest

    def begin(self, number: int, num_bytes: int) -> None:
        """The next frame; the one before is written."""
        self._rest = memoryview(PART.pack(number, num_bytes, num_bytes) + bytes(num_bytes))

    def write(self) -> None:
        """As much as the kernel takes at once."""
        self._rest = self._rest[self.sock.send(self._rest) :]

    def answers(self) -> list[int]:
        """The messages that have come, since the last call."""
        data = self.sock.recv(65_536)
        if not data:
            raise ConnectionError("the cloud's end closed the connection")
        self._read += data
        whole = len(self._read) - len(self._read) % ARRIVED.size
        found = [number for number, _ in ARRIVED.iter_unpack(self._read[:whole])]
        self._read = self._read[whole:]
        return found


class _Uploader:
    def __init__(self, work: Work, lanes: list[_Lane]) -> None:
        self._work = work
        self._bulk, self._urgent = lanes[0], lanes[-1]
        self._lanes = lanes
        self._number = 0
        self._due: dict[int, float] = {}
        self._waiting: deque[int] = deque()
        self._bulk_bytes = 0
        self.urgent_s: list[float] = []

    def run(self) -> Uploaded:
        """Until time is up, and urgent messages are answered or given up."""
        begin_s = time.monotonic()
        end_s = begin_s + self._work.seconds
        next_s = begin_s + self._work.urgent_every_s if self._work.urgent_every_s else end_s
        with selectors.DefaultSelector() as selector:
            for lane in self._lanes:
                selector.register(lane.sock, selectors.EVENT_READ, lane)
            while (now_s := time.monotonic()) < end_s + _LAST_S * bool(self._due):
                if next_s <= now_s < end_s:
                    self._ask(next_s)
                    next_s += self._work.urgent_every_s
                self._fill(is_over=now_s >= end_s)
                for lane in self._lanes:
                    wants = 0 if lane.is_between_frames else selectors.EVENT_WRITE
                    selector.modify(lane.sock, selectors.EVENT_READ | wants, lane)
                until_s = next_s if next_s < end_s else max(end_s, now_s + 0.05)
                for key, events in selector.select(max(0.0, until_s - now_s)):
                    if events & selectors.EVENT_WRITE:
                        key.data.write()
                    if events & selectors.EVENT_READ:
                        self._on_answers(key.data.answers(), end_s)
        congestion = self._bulk.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        return Uploaded(
            bulk_bytes_per_s=self._bulk_bytes / self._work.seconds,
            urgent_s=tuple(self.urgent_s),
            num_unanswered=len(self._due),
            congestion=congestion.rstrip(b"\0").decode(),
        )

    def _ask(self, due_s: float) -> None:
        self._number += 1
        self._due[self._number] = due_s
        self._waiting.append(self._number)

    def _fill(self, is_over: bool) -> None:
        if self._waiting and self._urgent.is_between_frames:
            self._urgent.begin(self._waiting.popleft(), self._work.urgent_bytes)
        if self._work.has_bulk and self._bulk.is_between_frames and not is_over:
            self._number += 1
            self._bulk.begin(self._number, _FRAME_BYTES)

    def _on_answers(self, numbers: list[int], end_s: float) -> None:
        now_s = time.monotonic()
        for number in numbers:
            due_s = self._due.pop(number, None)
            if due_s is not None:
                self.urgent_s.append(now_s - due_s)
            elif now_s < end_s:
                self._bulk_bytes += _FRAME_BYTES


def upload(host: str, port: int, work: Work) -> Uploaded:
    """Do the work over new connections."""
    lanes = []
    for _ in range(1 + work.is_urgent_apart):
        sock = connected(host, port, work.congestion)
        keep_unsent_short(sock, _UNSENT_BYTES)
        sock.setblocking(False)
        lanes.append(_Lane(sock))
    try:
        return _Uploader(work, lanes).run()
    finally:
        for lane in lanes:
            lane.sock.close()


if __name__ == "__main__":
    become_nobody()
    _, host, port, asked = sys.argv
    found = upload(host, int(port), msgspec.json.decode(asked, type=Work))
    print(msgspec.json.encode(found).decode())

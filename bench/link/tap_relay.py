"""Carries packets between TAP devices, each when its shaper says; the loop of a keeper process.

One thread. It sleeps until shortly before the next packet is due and looks at the clock for the
rest, since sleeping to the point ends a little late.
"""

import contextlib
import fcntl
import heapq
import os
import select
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.link.shaped_link import RelayFigures
from bench.link.shaper import Shaper

_TUNSETIFF = 0x400454CA
_TAP_WITHOUT_HEADER = 0x0002 | 0x1000
_FRAME_BYTES = 2048
_READS_AT_ONCE = 64
_SPIN_S = 25e-6
"""A sleep ended 0.04 ms late on average on a small virtual machine. Watching the clock for longer
makes frames more punctual, but takes the processor from those who are measured."""

_LONGEST_SLEEP_S = 0.5


@dataclass(slots=True)
class Lane:
    """One direction: frames read from one device are written to another."""

    source: int
    sink: int
    shaper: Shaper


def open_tap(interface: str) -> int:
    """A new TAP device in the namespace this thread is in; it is gone once closed.

    Raises:
        OSError: this process may not, or the name is taken.
    """
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    request = struct.pack("16sH22x", interface.encode(), _TAP_WITHOUT_HEADER)
    fcntl.ioctl(handle, _TUNSETIFF, request)
    return handle


class TapRelay:
    """Relays both ways until there is something to read from `control`, a file descriptor."""

    def __init__(self, lanes: Sequence[Lane], control: int) -> None:
        self._num_dropped = 0
        self._num_carried = 0
        self._late_s = 0.0
        self._worst_late_s = 0.0
        self._lanes = {lane.source: lane for lane in lanes}
        self._control = control
        self._due: list[tuple[float, int, int, bytes]] = []
        self._num_taken = 0
        self._start_s = time.monotonic()
        self._ready = select.epoll()
        for handle in (control, *self._lanes):
            self._ready.register(handle, select.EPOLLIN)

    def figures(self) -> RelayFigures:
        """What it did until now."""
        mean_s = self._late_s / max(1, self._num_carried)
        cpu_s = time.process_time()
        return RelayFigures(self._num_carried, self._num_dropped, mean_s, self._worst_late_s, cpu_s)

    def run(self, parent: int) -> None:
        """Relay until `control` can be read or `parent` is not this process's parent any more."""
        while os.getppid() == parent:
            self._sleep()
            for handle, _ in self._ready.poll(0):
                if handle == self._control:
                    return
                self._take(self._lanes[handle])
            self._give()

    def _sleep(self) -> None:
        sleep_s = _LONGEST_SLEEP_S
        if self._due:
            sleep_s = min(sleep_s, self._due[0][0] - self._now_s() - _SPIN_S)
        if sleep_s > 0:
            # Not epoll's own timeout, which counts whole milliseconds.
            select.select([self._ready], [], [], sleep_s)

    def _take(self, lane: Lane) -> None:
        for _ in range(_READS_AT_ONCE):
            try:
                frame = os.read(lane.source, _FRAME_BYTES)
            except BlockingIOError:
                return
            due_s = lane.shaper.offer(self._now_s(), len(frame))
            self._num_taken += 1
            if due_s is None:
                self._num_dropped += 1
            else:
                # The count keeps frames of the same moment in their order.
                heapq.heappush(self._due, (due_s, self._num_taken, lane.sink, frame))

    def _give(self) -> None:
        now_s = self._now_s()
        while self._due and self._due[0][0] <= now_s:
            due_s, _, sink, frame = heapq.heappop(self._due)
            with contextlib.suppress(BlockingIOError):  # its queue is full: a drop, as in a router
                os.write(sink, frame)
            now_s = self._now_s()
            self._num_carried += 1
            self._late_s += now_s - due_s
            self._worst_late_s = max(self._worst_late_s, now_s - due_s)

    def _now_s(self) -> float:
        return time.monotonic() - self._start_s

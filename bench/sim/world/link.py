"""One direction of a device's link under virtual time, without TCP's own dynamics.

Bytes are serialised one after another at the rate, with the headers of WebSocket frames and of
TCP, IP and Ethernet; the delay, a jitter drawn per frame and what losses cost come behind, and no
frame overtakes one before it. A lost segment comes one round trip later where others follow it,
and after a retransmission timeout where none does. Windows and queues that overflow are in
`tcp.py`. Both are a `process.sockets.memory.Way`, which is what the production sockets' twin in
memory goes through.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from random import Random

from bench.link.spec import LinkSpec
from process.sockets.memory import way_bytes

MSS_BYTES = 1448
"""Of a TCP segment with time stamps on a path for 1500 bytes."""

PACKET_OVERHEAD_BYTES = 66
"""Ethernet, IPv4 and TCP with time stamps: 14 + 20 + 32."""

UNSENT_BYTES = 131_072
"""What a sender hands over before it waits: the kernel's unsent bytes and the transport's buffer,
64 KiB each."""

MIN_TIMEOUT_S = 0.2
"""The least retransmission timeout of Linux."""

_MASK_BYTES = 4
_LEAST_WAIT_S = 1e-9
"""Less than that is rounding."""

Arrive = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Leg:
    """One direction's share of a `LinkSpec`.

    Devices mask their frames and clouds do not; a frame costs the program `late_s` where it comes.
    """

    bytes_per_s: float
    delay_s: float
    jitter_s: float
    loss: float
    is_masked: bool
    late_s: float
    is_slow_after_pause: bool = True
    """Whether TCP begins with a small window again after a pause."""


def legs(spec: LinkSpec, frame_s: float = 0.0) -> tuple[Leg, Leg]:
    """The way to the cloud and the way back. A frame costs `frame_s`, half of it on each way."""
    up_bytes_per_s, down_bytes_per_s = spec.uplink_bytes_per_s, spec.downlink_bytes_per_s
    up = Leg(up_bytes_per_s or inf, spec.delay_s, spec.jitter_s, spec.loss, True, frame_s / 2)
    return up, replace(up, bytes_per_s=down_bytes_per_s or inf, is_masked=False)


class PlainWay:
    """A `Way` on which the stream is a fluid."""

    def __init__(self, loop: asyncio.AbstractEventLoop, leg: Leg, draws: Random) -> None:
        self._loop = loop
        self._leg = leg
        self._draws = draws
        self._room_s = UNSENT_BYTES / leg.bytes_per_s
        self._free_s = 0.0
        self._last_arrival_s = 0.0
        self._coming: deque[tuple[float, bytes, Arrive]] = deque()
        self._num_arrived = 0

    def carry(self, frame: bytes, arrive: Arrive) -> None:
        leg = self._leg
        num_bytes = websocket_bytes(len(frame), leg.is_masked)
        on_wire_bytes = wire_bytes(num_bytes)
        late_s = leg.late_s
        if leg.jitter_s:
            late_s += self._draws.random() * leg.jitter_s
        if leg.loss:
            num_lost, lost_s = self._losses(num_packets(num_bytes))
            on_wire_bytes += num_lost * (MSS_BYTES + PACKET_OVERHEAD_BYTES)
            late_s += lost_s
        self._free_s = max(self._loop.time(), self._free_s) + on_wire_bytes / leg.bytes_per_s
        arrival_s = max(self._last_arrival_s, self._free_s + leg.delay_s + late_s)
        self._last_arrival_s = arrival_s
        self._coming.append((arrival_s, frame, arrive))
        self._loop.call_at(arrival_s, self._arrive)

    async def until_room(self) -> None:
        wait_s = self._free_s - self._loop.time() - self._room_s
        if wait_s > _LEAST_WAIT_S:
            await asyncio.sleep(wait_s)

    def num_unsent_bytes(self) -> int:
        wait_s = self._free_s - self._loop.time()
        return int(wait_s * self._leg.bytes_per_s) if wait_s > _LEAST_WAIT_S else 0

    def num_arrived_bytes(self) -> int:
        if not self._coming or self._leg.bytes_per_s == inf:
            return self._num_arrived
        arrival_s, frame, _ = self._coming[0]
        missing_s = max(0.0, arrival_s - self._loop.time())
        num_missing = int(missing_s * self._leg.bytes_per_s)
        return self._num_arrived + max(0, way_bytes(frame) - num_missing)

    def _arrive(self) -> None:
        """The oldest frame has come: timers of one moment ring in any order."""
        _, frame, arrive = self._coming.popleft()
        self._num_arrived += way_bytes(frame)
        arrive(frame)

    def _losses(self, packets: int) -> tuple[int, float]:
        """How many segments are sent again, and by how much the last one is late."""
        num_lost, late_s = 0, 0.0
        round_trip_s = 2 * self._leg.delay_s
        for num_left in range(packets, 0, -1):
            attempts = 0
            while self._draws.random() < self._leg.loss:
                attempts += 1
            if attempts:
                num_lost += attempts
                timeout_s = max(MIN_TIMEOUT_S, 2 * round_trip_s)
                first_s = round_trip_s if num_left > 3 else timeout_s
                late_s = max(late_s, first_s * (2**attempts - 1))
        return num_lost, late_s


def websocket_bytes(num_bytes: int, is_masked: bool) -> int:
    """A frame with its WebSocket header (RFC 6455, section 5.2)."""
    header = 2 if num_bytes < 126 else 4 if num_bytes < 65_536 else 10
    return num_bytes + header + (_MASK_BYTES if is_masked else 0)


def num_packets(num_bytes: int) -> int:
    """TCP segments of so many bytes that are sent at once."""
    return -(-num_bytes // MSS_BYTES)


def wire_bytes(num_bytes: int) -> int:
    """With the headers of every segment; acknowledgements are not counted."""
    return num_bytes + num_packets(num_bytes) * PACKET_OVERHEAD_BYTES

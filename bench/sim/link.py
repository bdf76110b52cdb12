"""One direction of a device's link under virtual time, without TCP's own dynamics.

Bytes are serialised one after another at the rate; the delay, a jitter drawn per message and what
losses cost come behind, and no message overtakes one before it. A lost segment comes one round
trip later where others follow it, and after a retransmission timeout where none does. Windows and
queues that overflow are in `tcp.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Protocol

from bench.link.spec import LinkSpec
from bench.sim.frames import MSS_BYTES, PACKET_OVERHEAD_BYTES, num_packets, wire_bytes
from bench.sim.kernel import Kernel

MIN_TIMEOUT_S = 0.2
"""The least retransmission timeout of Linux."""

_LEAST_WAIT_S = 1e-9
"""Less than that is rounding."""


class Channel(Protocol):
    """Carries messages in order."""

    def wait_s(self, num_unsent_bytes: int) -> float:
        """Seconds after which to look again whether at most so many bytes wait; 0 if so now."""
        ...

    def send(self, num_bytes: int, deliver: Callable[[], None]) -> None:
        """Have `deliver` called when a message of so many bytes has come."""
        ...


@dataclass(frozen=True, slots=True)
class Way:
    """One direction's share of a `LinkSpec`."""

    bytes_per_s: float
    delay_s: float
    jitter_s: float = 0.0
    loss: float = 0.0


def way_up(spec: LinkSpec) -> Way:
    """The way to the cloud."""
    return Way(spec.uplink_bytes_per_s or inf, spec.delay_s, spec.jitter_s, spec.loss)


def way_down(spec: LinkSpec) -> Way:
    """The way back."""
    return Way(spec.downlink_bytes_per_s or inf, spec.delay_s, spec.jitter_s, spec.loss)


class PlainChannel:
    """The stream as a fluid."""

    def __init__(self, kernel: Kernel, way: Way, draws: Random) -> None:
        self._kernel = kernel
        self._way = way
        self._draws = draws
        self._free_s = 0.0
        self._last_arrival_s = 0.0

    def wait_s(self, num_unsent_bytes: int) -> float:
        """See `Channel`; looking again once is enough."""
        rest_s = num_unsent_bytes / self._way.bytes_per_s
        wait_s = self._free_s - self._kernel.now - rest_s
        return wait_s if wait_s > _LEAST_WAIT_S else 0.0

    def send(self, num_bytes: int, deliver: Callable[[], None]) -> None:
        """See `Channel`."""
        way = self._way
        on_wire = wire_bytes(num_bytes)
        late_s = self._draws.random() * way.jitter_s if way.jitter_s else 0.0
        if way.loss:
            num_lost, lost_s = self._losses(num_packets(num_bytes))
            on_wire += num_lost * (MSS_BYTES + PACKET_OVERHEAD_BYTES)
            late_s += lost_s
        self._free_s = max(self._kernel.now, self._free_s) + on_wire / way.bytes_per_s
        arrival_s = max(self._last_arrival_s, self._free_s + way.delay_s + late_s)
        self._last_arrival_s = arrival_s
        self._kernel.at(arrival_s, deliver)

    def _losses(self, packets: int) -> tuple[int, float]:
        """How many segments are sent again, and by how much the last one is late."""
        num_lost, late_s = 0, 0.0
        round_trip_s = 2 * self._way.delay_s
        for num_left in range(packets, 0, -1):
            attempts = 0
            while self._draws.random() < self._way.loss:
                attempts += 1
            if attempts:
                num_lost += attempts
                timeout_s = max(MIN_TIMEOUT_S, 2 * round_trip_s)
                first_s = round_trip_s if num_left > 3 else timeout_s
                late_s = max(late_s, first_s * (2**attempts - 1))
        return num_lost, late_s

"""One direction of a link: which packet arrives when.

A shaper knows no clock and no socket: it is told when each packet comes and says when it leaves at
the far end. Moments are seconds since the link was opened.
"""

import math
from collections import deque
from dataclasses import dataclass

from bench.link.luck import Bursts, Luck
from bench.link.rates import ConstantRate, Rate, recorded_rates
from bench.link.spec import LinkSpec


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction as asked for; `LinkSpec` has the words."""

    rate: Rate
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    queue_bytes: float = math.inf
    burst_s: float = 0.0
    reorder: float = 0.0
    late_s: float = 0.0


class Shaper:
    """Sends one packet after the other at the direction's rate, then delays it.

    A packet that does not fit into the buffer is dropped before it takes any time; one that the
    link loses has been sent and has taken its time. Packets keep their order, but for those that
    are overtaken as asked.
    """

    def __init__(self, direction: Direction, luck: Luck) -> None:
        self._direction = direction
        self._luck = luck
        self._is_random = direction.loss > 0 or direction.jitter_s > 0
        self._bursts = (
            Bursts(direction.burst_s, direction.loss, luck.burst) if direction.burst_s else None
        )
        self._waiting: deque[tuple[float, int]] = deque()
        self._num_waiting_bytes = 0
        self._free_s = 0.0
        self._last_s = 0.0

    def offer(self, now_s: float, num_bytes: int) -> float | None:
        """When a packet that comes now leaves at the far end; None: never."""
        direction = self._direction
        if self.backlog_bytes(now_s) + num_bytes > direction.queue_bytes:
            return None
        self._free_s = direction.rate.sent_at(max(now_s, self._free_s), num_bytes)
        if self._free_s > now_s:
            self._waiting.append((self._free_s, num_bytes))
            self._num_waiting_bytes += num_bytes
        arrival_s = self._free_s + direction.delay_s
        if self._is_random:
            is_lost = self._is_lost()
            arrival_s += self._luck.packet() * direction.jitter_s
            if is_lost:
                return None
        self._last_s = max(self._last_s, arrival_s)
        is_overtaken = direction.reorder > 0 and self._luck.order() < direction.reorder
        return self._last_s + direction.late_s if is_overtaken else self._last_s

    def _is_lost(self) -> bool:
        """Whether the link loses what it has just sent."""
        is_unlucky = self._luck.packet() < self._direction.loss
        return is_unlucky if self._bursts is None else self._bursts.is_bad(self._free_s)

    def backlog_bytes(self, now_s: float) -> int:
        """Bytes that have come and are not sent whole, the packet on its way out included."""
        while self._waiting and self._waiting[0][0] <= now_s:
            self._num_waiting_bytes -= self._waiting.popleft()[1]
        return self._num_waiting_bytes

    def room_s(self, now_s: float, num_bytes: int) -> float:
        """The first moment at which a packet fits if nothing else comes; for senders that wait."""
        excess = self.backlog_bytes(now_s) + num_bytes - self._direction.queue_bytes
        if excess <= 0:
            return now_s
        for sent_s, sent_bytes in self._waiting:
            excess -= sent_bytes
            if excess <= 0:
                return sent_s
        return self._free_s


def directions(spec: LinkSpec, begin: float = 0.0) -> tuple[Direction, Direction]:
    """Uplink and downlink of a link; a trace begins at this part of its length.

    Raises:
        LinkSpecError: the trace does not exist.
    """
    rates: tuple[Rate, Rate]
    if spec.trace is not None:
        rates = recorded_rates(spec.trace, begin)
    else:
        asked = (spec.uplink_bytes_per_s, spec.downlink_bytes_per_s)
        up, down = (ConstantRate(math.inf if rate is None else rate) for rate in asked)
        rates = (up, down)
    return _direction(spec, rates[0]), _direction(spec, rates[1])


def _direction(spec: LinkSpec, rate: Rate) -> Direction:
    mean = rate.mean_bytes_per_s
    queue_bytes = math.inf if math.isinf(mean) else spec.buffer_bytes(mean)
    return Direction(
        rate=rate,
        delay_s=spec.delay_s,
        jitter_s=spec.jitter_s,
        loss=spec.loss,
        queue_bytes=queue_bytes,
        burst_s=spec.burst_s,
        reorder=spec.reorder,
        late_s=spec.late_s,
    )


def shaper_pairs(spec: LinkSpec, num_links: int, seed: int) -> list[tuple[Shaper, Shaper]]:
    """Uplink and downlink of each link; no two draw the same numbers.

    Links with the same trace begin at different places of it, evenly apart, since devices that all
    lose their signal at once are not what the recordings show.

    Raises:
        LinkSpecError: the trace does not exist.
    """
    pairs = []
    for number in range(num_links):
        up, down = directions(spec, number / num_links)
        lucks = [Luck.seeded(f"{seed} {number} {way}") for way in ("up", "down")]
        pairs.append((Shaper(up, lucks[0]), Shaper(down, lucks[1])))
    return pairs

"""The process behind links between network namespaces: makes them, relays packets, cleans up.

Started by `opening.py` with its orders as one line of JSON on standard input, which then stays
open. It answers with the namespaces as a line of JSON, the cloud's first, and each further line
with the figures until now; if the line is `move`, it gives the devices other addresses before. Once
standard input closes, because the links are closed or their owner died in whatever way, the keeper
kills what still runs in the namespaces, and ends. It is in a session of its own, so Ctrl-C does not
end it first.
"""

import contextlib
import heapq
import math
import os
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from bench.link.namespaces import End, kill_all_in, new_namespace, run, run_before_others
from bench.link.netem import commands
from bench.link.shaped_link import LinkError, LinkKind, RelayFigures
from bench.link.shaper import Shaper, shaper_pairs
from bench.link.spec import LinkSpec

_FRAME_BYTES = 2048
_NUM_ADDRESSES = 250
"""That a device may move to before one comes again."""

_READS_AT_ONCE = 64
_ORDER_BYTES = 64
MOVE = b"move"
_SPIN_S = 25e-6
"""A sleep ended 0.04 ms late on average on a small virtual machine. Watching the clock for longer
makes frames more punctual, but takes the processor from those who are measured."""

_LONGEST_SLEEP_S = 0.5


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a keeper shall keep: links of kind tap or netem, all equal, to one cloud."""

    kind: LinkKind
    spec: LinkSpec
    num_links: int
    seed: int
    parent: int
    """Its owner's process id."""

    def ends(self, namespaces: Sequence[str]) -> list[tuple[End, End]]:
        """The cloud's and the device's end of each link."""
        cloud, *devices = namespaces
        return [
            (
                End(cloud, f"link{number}", f"10.78.{number}.1", f"10.78.{number}.0/30"),
                End(device, "link0", f"10.78.{number}.2", f"10.78.{number}.0/30"),
            )
            for number, device in enumerate(devices)
        ]


def main() -> None:
    """Keep links until standard input closes."""
    orders = msgspec.json.decode(sys.stdin.readline(), type=Orders)
    try:
        namespaces = [new_namespace() for _ in range(1 + orders.num_links)]
        lanes = _join(orders, namespaces)
    except (LinkError, OSError) as error:
        sys.exit(str(error))
    try:
        run_before_others()
        relay = _Relay(lanes)
        movers = _Movers(orders, namespaces)
        _say(namespaces)
        while order := _next_order(relay, movers, orders.parent):
            if order.strip() == MOVE:
                movers.move()
            _say(relay.figures())
    finally:
        kill_all_in(namespaces)


def _next_order(relay: "_Relay", movers: "_Movers", parent: int) -> bytes:
    """Relay until an order comes, and move when it is time; nothing once the owner is gone."""
    while relay.run(parent, movers.next_s):
        movers.move_if_due()
    return os.read(sys.stdin.fileno(), _ORDER_BYTES)


class _Movers:
    """The devices' ends, which get other addresses from time to time, or when told."""

    def __init__(self, orders: Orders, namespaces: Sequence[str]) -> None:
        ends = orders.ends(namespaces)
        for number, (cloud, _) in enumerate(ends):
            cloud.expect(f"10.79.{number}.0/24")
        self._ends = [device for _, device in ends]
        self._num_moves = 0
        self._every_s = orders.spec.move_s
        self.next_s = math.inf if self._every_s is None else time.monotonic() + self._every_s
        """When they move by themselves."""

    def move(self) -> None:
        """Each gets an address that it has not had for long."""
        host = 1 + self._num_moves % _NUM_ADDRESSES
        self._ends = [end.moved(f"10.79.{n}.{host}") for n, end in enumerate(self._ends)]
        self._num_moves += 1

    def move_if_due(self) -> None:
        """Move if it is time, and set the next time."""
        if self._every_s is not None and time.monotonic() >= self.next_s:
            self.move()
            self.next_s += self._every_s


def _say(answer: object) -> None:
    print(msgspec.json.encode(answer).decode(), flush=True)


@dataclass(slots=True)
class _Lane:
    """One direction: frames read from one TAP device are written to another."""

    source: int
    sink: int
    shaper: Shaper


def _join(orders: Orders, namespaces: Sequence[str]) -> list[_Lane]:
    """Join the ends; what there is to be relayed, which is nothing if the kernel shapes them."""
    lanes = []
    shapers = shaper_pairs(orders.spec, orders.num_links, orders.seed)
    for (cloud, device), (up, down) in zip(orders.ends(namespaces), shapers, strict=True):
        if orders.kind is LinkKind.TAP:
            at_cloud, at_device = cloud.make_tap(), device.make_tap()
            lanes += [_Lane(at_device, at_cloud, up), _Lane(at_cloud, at_device, down)]
        else:
            for command in commands(orders.spec, cloud, device):
                run(command)
        cloud.bring_up()
        device.bring_up()
    return lanes


class _Relay:
    """Carries frames between TAP devices, each when its shaper says.

    One thread. It sleeps until shortly before the next frame is due and looks at the clock for the
    rest, since sleeping to the point ends a little late.
    """

    def __init__(self, lanes: Sequence[_Lane]) -> None:
        self._num_dropped = 0
        self._num_carried = 0
        self._late_s = 0.0
        self._worst_late_s = 0.0
        self._lanes = {lane.source: lane for lane in lanes}
        self._due: list[tuple[float, int, int, bytes]] = []
        self._num_taken = 0
        self._start_s = time.monotonic()
        self._ready = select.epoll()
        for handle in (sys.stdin.fileno(), *self._lanes):
            self._ready.register(handle, select.EPOLLIN)

    def figures(self) -> RelayFigures:
        """What it did until now."""
        return RelayFigures(
            num_carried=self._num_carried,
            num_dropped=self._num_dropped,
            mean_late_s=self._late_s / max(1, self._num_carried),
            worst_late_s=self._worst_late_s,
            cpu_s=time.process_time(),
            started_s=self._start_s,
        )

    def run(self, parent: int, until_s: float) -> bool:
        """Relay until that moment of the monotonic clock, which is True, or until something comes
        on standard input or the parent process is gone, which is False."""
        while os.getppid() == parent:
            self._sleep(until_s)
            for handle, _ in self._ready.poll(0):
                if handle not in self._lanes:
                    return False
                self._take(self._lanes[handle])
            self._give()
            if time.monotonic() >= until_s:
                return True
        return False

    def _sleep(self, until_s: float) -> None:
        sleep_s = min(_LONGEST_SLEEP_S, until_s - time.monotonic())
        if self._due:
            sleep_s = min(sleep_s, self._due[0][0] - self._now_s() - _SPIN_S)
        if sleep_s > 0:
            # Not epoll's own timeout, which counts whole milliseconds.
            select.select([self._ready], [], [], sleep_s)

    def _take(self, lane: _Lane) -> None:
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


if __name__ == "__main__":
    main()

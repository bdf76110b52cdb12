"""The first chunk after a pause: how long it takes on the link, beside the same one when warm."""

import contextlib
import heapq
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import msgspec

from bench.link.opening import open_link
from bench.link.shaped_link import LinkKind
from bench.link.spec import LinkSpec, link_text
from bench.machine import machine_lines
from bench.transport.places import Arm, Sender, device_arm, running, sockets_arm
from bench.transport.sender import SocketsWay
from chunking.ramp import INITIAL_WINDOW_BYTES, ramp_s

ARMS = {
    arm.name: arm
    for arm in (
        sockets_arm("one", SocketsWay()),
        sockets_arm("two", SocketsWay(connections=2)),
        sockets_arm("four", SocketsWay(connections=4)),
        sockets_arm("reno", SocketsWay(congestion="reno")),
        sockets_arm("bbr", SocketsWay(congestion="bbr")),
        sockets_arm("setting", SocketsWay(), is_setting_off=True),
        device_arm("device-one", "1"),
        device_arm("device-two", "2"),
        device_arm("device-auto", "auto"),
    )
}
"""Ways to send; all without root's rights, but for the setting."""

WARM_S = 0.0
NEW = -1.0
"""Instead of a pause: on a new connection."""

_NUM_WARM_UP = 2

_NUM_LEARNING = 12
"""Chunks on a new connection that do not count: a device learns a fast link's rate over so many,
and slower warm ones would flatter those after a pause."""


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """One way to send so many bytes over one link after a pause."""

    link: str
    arm: str
    num_bytes: int
    pause_s: float
    """0 is warm, -1 a new connection."""
    seconds: tuple[float, ...]
    """Of each try, from the first byte's sending to the last byte's coming."""
    model_s: float
    """What `chunking.ramp` adds to a warm one, for one connection."""


class FirstChunks(msgspec.Struct, frozen=True, kw_only=True):
    """A result, as it is kept."""

    machine: tuple[str, ...]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What is sent, how often, and after which pauses."""

    sizes: tuple[int, ...]
    pauses_s: tuple[float, ...]
    num_tries: int

    def steps(self) -> Iterator[tuple[float, int, bool]]:
        """Pause, bytes, whether it counts; on a warm connection but for the pause."""
        for num_bytes in self.sizes:
            for pause_s in (NEW, WARM_S, *self.pauses_s):
                if pause_s == WARM_S:
                    yield from ((WARM_S, num_bytes, False),) * _NUM_LEARNING
                for _ in range(self.num_tries):
                    if pause_s == WARM_S:
                        yield WARM_S, num_bytes, True
                        continue
                    yield pause_s, num_bytes, True
                    yield from ((WARM_S, num_bytes, False),) * _NUM_WARM_UP


def measure(
    links: Sequence[LinkSpec], arms: Sequence[Arm], question: Question, say: Callable[[str], None]
) -> FirstChunks:
    """Each arm on a link of its own for each of `links`; pauses overlap, and transfers never do.

    Raises:
        LinkError: no links between namespaces can be opened here, or a program ended.
    """
    with contextlib.ExitStack() as stack:
        places = []
        for spec, arm in itertools.product(links, arms):
            link = stack.enter_context(open_link(spec, kind=LinkKind.TAP))
            places.append((spec, arm, stack.enter_context(running(arm, link))))
        tries = _Turns([sender for *_, sender in places], question, say).all()
    chunks = [
        Chunk(
            link=link_text(spec),
            arm=arm.name,
            num_bytes=num_bytes,
            pause_s=pause_s,
            seconds=tuple(seconds),
            model_s=_model_s(spec, num_bytes) if pause_s != WARM_S else 0.0,
        )
        for (spec, arm, _), found in zip(places, tries, strict=True)
        for (num_bytes, pause_s), seconds in found.items()
    ]
    return FirstChunks(machine=tuple(machine_lines()), chunks=tuple(chunks))


def _model_s(spec: LinkSpec, num_bytes: int) -> float:
    rate = spec.uplink_bytes_per_s or float("inf")
    return ramp_s(num_bytes, rate, spec.rtt_s, INITIAL_WINDOW_BYTES)


class _Turns:
    """Senders that take turns: the one whose pause ends first sends next, and what follows without
    a pause at once behind that."""

    def __init__(
        self, senders: Sequence[Sender], question: Question, say: Callable[[str], None]
    ) -> None:
        self._senders = senders
        self._steps = [question.steps() for _ in senders]
        self._tries: list[dict[tuple[int, float], list[float]]] = [{} for _ in senders]
        self._due: list[tuple[float, int, tuple[float, int, bool]]] = []
        self._say = say

    def all(self) -> list[dict[tuple[int, float], list[float]]]:
        """The seconds of each sender's tries, by bytes and pause."""
        for number in range(len(self._senders)):
            self._take_until_a_pause(number)
        while self._due:
            at_s, number, step = heapq.heappop(self._due)
            time.sleep(max(0.0, at_s - time.monotonic()))
            self._take(number, step)
            self._take_until_a_pause(number)
        return self._tries

    def _take_until_a_pause(self, number: int) -> None:
        for step in self._steps[number]:
            pause_s, *_ = step
            if pause_s > WARM_S:
                heapq.heappush(self._due, (time.monotonic() + pause_s, number, step))
                return
            self._take(number, step)

    def _take(self, number: int, step: tuple[float, int, bool]) -> None:
        pause_s, num_bytes, counts = step
        sender = self._senders[number]
        if pause_s == NEW:
            sender.renew()
        seconds = sender.send(num_bytes)
        if counts:
            self._tries[number].setdefault((num_bytes, pause_s), []).append(seconds)
            self._say(f"{number}: {num_bytes} bytes after {pause_s:g} s: {1e3 * seconds:.0f} ms")


def table(result: FirstChunks, of_tries: Callable[[Sequence[float]], float] = median) -> str:
    """A row for each link, size and arm: ms warm, then after each pause with the ratio.

    `of_tries` makes one figure of all tries: their median, or on a loaded machine their least.
    """
    by_row: dict[tuple[str, int, str], dict[float, Chunk]] = {}
    for chunk in result.chunks:
        by_row.setdefault((chunk.link, chunk.num_bytes, chunk.arm), {})[chunk.pause_s] = chunk
    pauses = sorted({chunk.pause_s for chunk in result.chunks} - {WARM_S})
    heads = ["link", "bytes", "arm", "warm", *map(_pause_text, pauses), "model: ramp"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (link, num_bytes, arm), row in sorted(by_row.items(), key=_order):
        warm_s = of_tries(row[WARM_S].seconds)
        cells = [link, f"{num_bytes:,}", arm, f"{1e3 * warm_s:.0f}"]
        cells += [_cell(of_tries(row[pause_s].seconds), warm_s) for pause_s in pauses]
        ramps = {1e3 * chunk.model_s for chunk in row.values()} - {0.0}
        cells.append(f"{max(ramps, default=0.0):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _order(row: tuple[tuple[str, int, str], object]) -> tuple[str, int]:
    """Arms stay in the order in which they were asked for."""
    (link, num_bytes, _), _ = row
    return link, num_bytes


def _pause_text(pause_s: float) -> str:
    return "new" if pause_s == NEW else f"after {pause_s:g} s"


def _cell(seconds: float, warm_s: float) -> str:
    return f"{1e3 * seconds:.0f} ({seconds / warm_s:.2f})"

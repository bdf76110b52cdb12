"""Virtual time: a heap of calls, and processes that sleep and wait in it.

A process is a generator that yields seconds to sleep or a `Signal` to wait for. What is due at the
same moment runs in the order in which it was asked for, so a run depends on nothing but its input.
"""

from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from heapq import heappop, heappush
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")


class Kernel:
    """The clock. `now` is in seconds and never goes back."""

    def __init__(self) -> None:
        self.now = 0.0
        self.num_events = 0
        self._num_scheduled = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []

    def clock(self) -> float:
        """The time now, for production code that asks for a clock."""
        return self.now

    def at(self, time_s: float, call: Callable[[], None]) -> None:
        """Have a function called at a moment that is not over.

        Raises:
            ValueError: the moment is over, or no number.
        """
        if not time_s >= self.now:
            raise ValueError(f"expected a time of at least {self.now}, got {time_s}")
        self._num_scheduled += 1
        heappush(self._heap, (time_s, self._num_scheduled, call))

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Have a function called in so many seconds, behind what is due by then."""
        self.at(self.now + delay_s, call)

    def spawn(self, process: "Process[None]") -> None:
        """Begin a process at once, up to where it first sleeps or waits."""
        self.resume(process)

    def resume(self, process: "Process[None]") -> None:
        """Run a process on to where it next sleeps or waits."""
        try:
            wanted = next(process)
        except StopIteration:
            return
        if isinstance(wanted, Signal):
            wanted.add(process)
        else:
            self.after(wanted, partial(self.resume, process))

    def run(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Call what is due, in order, until `is_over` or nothing is left."""
        heap = self._heap
        while heap and not is_over():
            time_s, _, call = heappop(heap)
            self.now = time_s
            self.num_events += 1
            call()


class Signal:
    """What processes wait for; each `fire` wakes those that wait then."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._waiting: list[Process[None]] = []

    def add(self, process: "Process[None]") -> None:
        """Let a process wait."""
        self._waiting.append(process)

    def fire(self) -> None:
        """Wake all who wait, at this moment, behind what is due already."""
        waiting, self._waiting = self._waiting, []
        for process in waiting:
            self._kernel.after(0.0, partial(self._kernel.resume, process))


Process: TypeAlias = Generator[float | Signal, Any, T]


class Turnstile:
    """At most `num_places` inside; the others wait in the order they came."""

    def __init__(self, kernel: Kernel, num_places: int = 1) -> None:
        self._kernel = kernel
        self._num_free = num_places
        self._waiting: deque[Signal] = deque()

    @property
    def num_waiting(self) -> int:
        """How many wait to come in."""
        return len(self._waiting)

    @property
    def is_free(self) -> bool:
        """Whether someone could come in without waiting."""
        return self._num_free > 0

    def enter(self) -> "Process[None]":
        """Wait for a place and take it."""
        if self._num_free > 0:
            self._num_free -= 1
            return
        turn = Signal(self._kernel)
        self._waiting.append(turn)
        yield turn

    def leave(self) -> None:
        """Give the place to the one who waited longest."""
        if self._waiting:
            self._waiting.popleft().fire()
        else:
            self._num_free += 1

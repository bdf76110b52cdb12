"""An event loop without waiting: its clock jumps to the next timer when nothing is ready.

Everything that takes its time from the loop runs on it as it is: timeouts, sleeps, and shells that
are given `loop.time` as their clock. Two runs are the same to the last bit as long as nothing else
is random: timers of one moment ring in the order in which they were set. Sockets of the system and
threads do not exist for it: use `process.sockets.memory` and twins of the workers that let time
pass. As trio's `MockClock`, but a loop of its own.
"""

import asyncio
import heapq
import itertools
import math
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class EndlessWaitError(RuntimeError):
    """Nothing will happen any more, or not in time; the words say which tasks wait, and where."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Begins at 0 s and ends at `end_s`: something that ticks may hide a wait for ever."""

    def __init__(self, end_s: float = math.inf) -> None:
        self.end_s = end_s
        self._now_s = 0.0
        self._numbers = itertools.count()
        super().__init__(_Jump(self))

    def time(self) -> float:
        """Seconds that have passed."""
        return self._now_s

    def call_at(
        self,
        when: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio's, but timers of one moment ring in the order in which they were set.

        asyncio's heap leaves that order open: a timer more, of something else, would change it.
        """
        timer = _Timer(when, callback, args, self, context)
        timer.number = next(self._numbers)
        heapq.heappush(vars(self)["_scheduled"], timer)
        timer._scheduled = True
        return timer

    def skip(self, seconds: float) -> None:
        """Let time pass without any timer, as on a machine that slept."""
        self._now_s += seconds

    def jump(self, seconds: float) -> None:
        """Let time pass up to the next timer, which is so far away, and to no moment before it."""
        timers: list[asyncio.TimerHandle] = vars(self)["_scheduled"]
        end_s = self._now_s + seconds
        is_next = bool(timers) and math.isclose(timers[0].when(), end_s, abs_tol=1e-9)
        self._now_s = timers[0].when() if is_next else end_s

    @property
    def _clock_resolution(self) -> float:
        """How much too early a timer may ring: not at all, this clock being exact."""
        return math.ulp(self._now_s)

    @_clock_resolution.setter
    def _clock_resolution(self, seconds: float) -> None:
        """Of the system's clock, which asyncio's own loop sets."""


class _Timer(asyncio.TimerHandle):
    """Knows how many were set before it."""

    __slots__ = ("number",)

    _scheduled: bool
    number: int

    def __lt__(self, other: asyncio.TimerHandle) -> bool:
        assert isinstance(other, _Timer)
        return (self.when(), self.number) < (other.when(), other.number)


class _Jump(selectors.SelectSelector):
    """Lets the time pass for which it should have waited for a socket."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self._loop
        if timeout is None:
            raise EndlessWaitError(f"expected a timer, but everybody waits for ever: {_who(loop)}")
        if timeout > 0 and loop.time() + timeout > loop.end_s:
            raise EndlessWaitError(f"expected an end before {loop.end_s:g} s: {_who(loop)}")
        if timeout > 0:
            loop.jump(timeout)
        return []


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What `main` returns; `asyncio.sleep` takes no time in it and `loop.time()` says it did."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def _who(loop: VirtualLoop) -> str:
    return "; ".join(sorted(map(_where, asyncio.all_tasks(loop))))


def _where(task: asyncio.Task[Any]) -> str:
    """A task's name, and the line where its innermost coroutine waits."""
    waiting: Any = task.get_coro()
    while getattr(getattr(waiting, "cr_await", None), "cr_frame", None) is not None:
        waiting = waiting.cr_await
    frame = getattr(waiting, "cr_frame", None)
    place = "?" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return f"{task.get_name()} at {place}"

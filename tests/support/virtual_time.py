"""An event loop whose clock jumps to the next timer, for shells that wait on nothing but timers."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingLoop(asyncio.SelectorEventLoop):
    """Time stands still while there is something to do."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self.now_s


class _Jump(selectors.SelectSelector):
    """Instead of waiting for a socket or a timer, lets the time pass."""

    def __init__(self, loop: _JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("expected a timer, but everybody waits for ever")
        self._loop.now_s += max(0.0, timeout)
        return []


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What `main` returns; `asyncio.sleep` takes no time in it and `loop.time()` says it did."""
    with asyncio.Runner(loop_factory=_JumpingLoop) as runner:
        return runner.run(main())

"""A program as a process: its event loop, and how signals end it."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from types import FrameType
from typing import Any, TypeVar

from process.errors import UserError
from process.program.passing import passes

OK = 0
FAILED = 1
WRONG_SETTINGS = 2
"""As for a wrong command line: whoever starts it again as it is gets the same."""

T = TypeVar("T")


def told(error: UserError) -> int:
    """Say in one line why a program cannot start; returns its exit code.

    `FAILED` where another start may go better, `WRONG_SETTINGS` where somebody has to mend
    something first: supervisors start the former again and leave the latter alone.
    """
    print(f"hat: {error}", file=sys.stderr, flush=True)
    return FAILED if passes(error) else WRONG_SETTINGS


def run_on_loop(serve: Coroutine[Any, Any, T]) -> T:
    """Run a program to its end.

    uvloop where it exists: half the round trip time of asyncio's own loop (on loopback).
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(serve)


class Signals:
    """SIGTERM and SIGINT, from now on: the first one drains, the second one does not wait.

    On Windows Ctrl-Break is one as well; SIGTERM never comes there.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._came: asyncio.Queue[signal.Signals] = asyncio.Queue()
        on_signals(("SIGTERM", "SIGINT", "SIGBREAK"), self._came.put_nowait)

    async def next(self) -> signal.Signals:
        """The next signal."""
        return await self._came.get()

    async def drain(
        self,
        asked_by: signal.Signals,
        drain: Callable[[float], Coroutine[Any, Any, object]],
        timeout_s: float,
    ) -> None:
        """Let running work finish, for some time at most, or until there is another signal."""
        self._log.info("%s: draining for at most %g s", asked_by.name, timeout_s)
        await first_of(drain(timeout_s), self.next())


def on_signals(names: Sequence[str], call: Callable[[signal.Signals], object]) -> None:
    """Have the running loop make a call for each of these signals that the system has.

    Loops of Windows take no handlers of signals; there Python's own hands them to the loop.
    """
    loop = asyncio.get_running_loop()

    def hand_over(number: int, _: FrameType | None) -> None:
        loop.call_soon_threadsafe(call, signal.Signals(number))

    for name in names:
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, call, number)
        except NotImplementedError:
            signal.signal(number, hand_over)


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait for the first of these, and end the others.

    Raises:
        Exception: what the first one raised.
    """
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory

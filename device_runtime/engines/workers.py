"""Where calls on a device's engine run: a thread of its own, or a twin that only takes time."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from device_runtime.engines.engine import DeviceEngine

T = TypeVar("T")


class Workers(Protocol):
    """Run calls on one engine in the order they come.

    A simulator's twin calls at once, then lets the seconds pass that the call would have taken,
    one call after another; `EngineThread` is the real one.
    """

    @property
    def engine(self) -> DeviceEngine:
        """The engine, for what never changes: its sizes and limits."""
        ...

    async def run(self, call: Callable[[DeviceEngine], T]) -> T:
        """The result of a call. Cancelled while waiting, it does not run; once begun, it ends."""
        ...

    def run_later(self, call: Callable[[DeviceEngine], None]) -> None:
        """Run a call behind those already waiting; a failure is logged. Not after `close`."""
        ...

    def close(self) -> None:
        """Finish what waits, then end."""
        ...

"""The one thread that may touch the engine."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from device_runtime.engines.engine import DeviceEngine

_log = logging.getLogger(__name__)

T = TypeVar("T")


class EngineThread:
    """`Workers` that are one thread.

    A generation has at most one call waiting, so turns go round between generations by
    themselves, and the queue is as short as the number of generations.
    """

    def __init__(self, engine: DeviceEngine) -> None:
        self.engine = engine
        self._is_closed = False
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device engine")

    async def run(self, call: Callable[[DeviceEngine], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, call, self.engine)

    def run_later(self, call: Callable[[DeviceEngine], None]) -> None:
        if self._is_closed:
            return
        self._executor.submit(call, self.engine).add_done_callback(_log_failure)

    def close(self) -> None:
        """Finish what waits, then end the thread."""
        self._is_closed = True
        self._executor.shutdown(wait=False)


def _log_failure(done: "Future[None]") -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        _log.error("an engine call failed", exc_info=error)

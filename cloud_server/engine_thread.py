"""The one thread that owns the engine: loads it, and runs steps in the order they are given."""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

from cloud_server.actions import Step, StepOutcome
from cloud_server.loaded_engine import LoadedEngine
from cloud_server.step_runner import StepRunner

_log = logging.getLogger(__name__)


class StepListener(Protocol):
    """Told in the event loop how steps ended, in their order."""

    def on_step_done(self, step: Step, outcome: StepOutcome) -> None:
        """A step ran."""
        ...

    def on_step_failed(self, step: Step, reason: str) -> None:
        """A step raised; `reason` is safe to show. The thread goes on with the next one."""
        ...


class EngineThread:
    """Loads an engine and performs at most `max_steps` queued steps, one after the other.

    A thread rather than a process: torch's operators let go of the interpreter lock, and hidden
    states need not be copied through pipes.
    """

    def __init__(self, load: Callable[[], LoadedEngine], max_steps: int) -> None:
        self._load = load
        # One more place, for the request to stop.
        self._steps: queue.Queue[Step | None] = queue.Queue(max_steps + 1)
        self._is_stopping = threading.Event()
        # A daemon thread: loading cannot be interrupted, and must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[LoadedEngine] = self._loop.create_future()
        self._listener: StepListener | None = None

    async def load(self) -> LoadedEngine:
        """Start the thread, and wait until the engine is there. To be called once.

        Raises:
            Exception: what the loader raised; the thread has ended then.
        """
        self._thread.start()
        return await self._loaded

    def listen(self, listener: StepListener) -> None:
        """Say who is told of steps, before the first one."""
        self._listener = listener

    def submit(self, step: Step) -> None:
        """Queue a step.

        Raises:
            queue.Full: more than `max_steps` steps that have not ended.
        """
        self._steps.put_nowait(step)

    async def stop(self, timeout_s: float) -> bool:
        """Let the running step end and drop the queued ones.

        Returns:
            Whether the thread has ended; one that is still loading is left behind.
        """
        self._is_stopping.set()
        with contextlib.suppress(queue.Full):
            self._steps.put_nowait(None)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            loaded = self._load()
        except Exception as error:
            self._call(self._settle, error)
            return
        self._call(self._settle, loaded)
        runner = StepRunner(loaded.engine, time.perf_counter)
        while (step := self._steps.get()) is not None and not self._is_stopping.is_set():
            self._run_step(runner, step)

    def _run_step(self, runner: StepRunner, step: Step) -> None:
        assert self._listener is not None, "someone listens before the first step"
        try:
            outcome = runner.run(step)
        except Exception as error:
            # The top of the engine's loop: whatever it was, other sessions go on.
            _log.exception("step %d of %d rows failed", step.number, step.num_tokens)
            reason = f"the engine failed: {type(error).__name__}"
            self._call(self._listener.on_step_failed, step, reason)
        else:
            self._call(self._listener.on_step_done, step, outcome)

    def _settle(self, result: LoadedEngine | Exception) -> None:
        if self._loaded.cancelled():
            return
        if isinstance(result, Exception):
            self._loaded.set_exception(result)
        else:
            self._loaded.set_result(result)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """Have the event loop call a function, unless it is closed: the program ends then."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

"""The one thread that owns the engine: loads it, begins steps, loads it again when lost.

An engine that works on several steps at once gets a second thread, which waits for them in the
order in which they were begun.
"""

import asyncio
import contextlib
import functools
import logging
import queue
import threading
from collections.abc import Callable

from cloud_server.core.actions import Step
from cloud_server.daemon.step_runner import RunningStep, StepRunner
from cloud_server.daemon.steps import StepListener
from cloud_server.engines.engine import EngineLostError, steps_in_flight
from cloud_server.engines.loading import LoadedEngine
from process.world import Clock
from wire.messages import Dtype

_log = logging.getLogger(__name__)

_RELOAD_PAUSES_S = (0.0, 2.0, 10.0, 30.0)
"""Before each attempt to load a lost engine again; after the last one it is given up."""

_MOST_STEPS = 64
"""More stages than any pipeline has."""

_LOOK_EVERY_S = 1.0
"""How often an engine without steps is asked whether it is still there: one that ended at night is
back before anybody comes."""


class EngineThread:
    """Loads an engine and performs queued steps, as many at once as the engine can.

    The thread waits for what its engine computes, which an engine of many small operators does
    better in a process of its own (`engines/hosting`). `wire` is the number format of rows in
    steps; `clock` times them.
    """

    def __init__(self, load: Callable[[], LoadedEngine], wire: Dtype, clock: Clock) -> None:
        self._clock = clock
        self._load = load
        self._wire = wire
        self._steps: queue.Queue[Step | None] = queue.Queue(_MOST_STEPS)
        self._is_stopping = threading.Event()
        # A daemon thread: loading cannot be interrupted, and must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[LoadedEngine] | None = self._loop.create_future()
        self._listener: StepListener | None = None

    async def load(self) -> LoadedEngine:
        """Start the thread, and wait until the engine is there. To be called once.

        Raises:
            Exception: what the loader raised; the thread has ended then.
        """
        assert self._loaded is not None, "an engine is loaded once"
        self._thread.start()
        loaded = await self._loaded
        self._loaded = None  # a lost engine is not to be kept alive from here
        return loaded

    def listen(self, listener: StepListener) -> None:
        """See `Steps`."""
        self._listener = listener

    def submit(self, step: Step) -> None:
        """Queue a step.

        Raises:
            queue.Full: far more steps than any engine works on at once.
        """
        self._steps.put_nowait(step)

    async def stop(self, timeout_s: float) -> bool:
        """Let the running steps end and drop the queued ones.

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
            loaded: LoadedEngine | None = self._load()
        except Exception as error:
            self._call(self._settle, error)
            return
        self._call(self._settle, loaded)
        while loaded is not None:
            reason = self._serve(loaded)
            self._close(loaded)
            loaded = None  # its memory is free before another engine asks for its own
            if reason is not None:
                loaded = self._replace_lost(reason)

    def _serve(self, loaded: LoadedEngine) -> str | None:
        """Perform steps until the thread is to end (None) or the engine is lost (why)."""
        runner = StepRunner(loaded.engine, self._clock, self._wire)
        finisher = None
        if steps_in_flight(loaded.engine) > 1:
            finisher = _Finisher(on_lost=lambda: self._steps.put(None))
        try:
            while (step := self._next(loaded)) is not None and not self._is_stopping.is_set():
                finish = self._begin(runner, step)
                if finisher is None:
                    finish()
                else:
                    finisher.add(finish)
            return finisher.stop() if finisher is not None else None
        except EngineLostError as error:
            if finisher is not None:
                finisher.stop()
            return str(error)

    def _next(self, loaded: LoadedEngine) -> Step | None:
        """What is submitted next.

        Raises:
            EngineLostError: the engine has ended meanwhile.
        """
        while True:
            try:
                return self._steps.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                reason = loaded.why_lost()
            if reason is not None:
                raise EngineLostError(reason)

    def _begin(self, runner: StepRunner, step: Step) -> Callable[[], None]:
        """Begin a step; what is to be called when those before it have ended, and tells of it."""
        try:
            running = runner.begin(step)
        except EngineLostError:
            raise
        except Exception as error:
            return functools.partial(self._fail, step, error)
        return functools.partial(self._finish, step, running)

    def _finish(self, step: Step, running: RunningStep) -> None:
        """Wait for a step and tell of it.

        Raises:
            EngineLostError: the engine is gone; nothing was told.
        """
        listener = self._listener
        assert listener is not None, "someone listens before the first step"
        try:
            outcome = running.finish()
        except EngineLostError:
            raise
        except Exception as error:
            self._fail(step, error)
        else:
            self._call(listener.on_step_done, step, outcome)

    def _fail(self, step: Step, error: Exception) -> None:
        # The top of the engine's loop: whatever it was, other sessions go on.
        assert self._listener is not None, "someone listens before the first step"
        _log.error("step %d of %d rows failed", step.number, step.num_tokens, exc_info=error)
        reason = f"the engine failed: {type(error).__name__}"
        self._call(self._listener.on_step_failed, step, reason)

    def _replace_lost(self, reason: str) -> LoadedEngine | None:
        """Load the engine again; None when that is given up or the thread is to end."""
        listener = self._listener
        assert listener is not None, "someone listens before the first step"
        _log.error("%s; loading the engine again", reason)
        has_heard = threading.Event()
        self._call(listener.on_engine_lost, reason)
        self._call(has_heard.set)
        for pause_s in _RELOAD_PAUSES_S:
            if self._is_stopping.wait(pause_s):
                return None
            try:
                loaded = self._load()
            except Exception as error:
                _log.error("the engine could not be loaded: %s", error)
                continue
            has_heard.wait()
            self._forget_steps()
            self._call(listener.on_engine_ready)
            _log.warning("the engine is back")
            return loaded
        self._call(listener.on_engine_given_up)
        return None

    def _close(self, loaded: LoadedEngine) -> None:
        try:
            loaded.close()
        except Exception:
            # Its processes may be dead in any state; the next one is loaded all the same.
            _log.exception("the engine did not close in order")

    def _forget_steps(self) -> None:
        """Drop what was submitted before the loss was known."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._steps.get_nowait()
        if self._is_stopping.is_set():
            self._steps.put_nowait(None)

    def _settle(self, result: LoadedEngine | Exception) -> None:
        if self._loaded is None or self._loaded.cancelled():
            return
        if isinstance(result, Exception):
            self._loaded.set_exception(result)
        else:
            self._loaded.set_result(result)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """Have the event loop call a function, unless it is closed: the program ends then."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)


class _Finisher:
    """Calls what is added, in order, in a thread of its own.

    A call may raise EngineLostError; then `on_lost` is called, once, and what follows is dropped.
    """

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._reason: str | None = None
        self._thread = threading.Thread(target=self._run, name="engine-finisher", daemon=True)
        self._thread.start()

    def add(self, call: Callable[[], None]) -> None:
        """Add a call; the number of steps in flight bounds how many there are."""
        self._calls.put(call)

    def stop(self) -> str | None:
        """Make the calls that were added and end the thread; why the engine was lost, if it was."""
        self._calls.put(None)
        self._thread.join()
        return self._reason

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._reason is not None:
                continue
            try:
                call()
            except EngineLostError as error:
                self._reason = str(error)
                self._on_lost()

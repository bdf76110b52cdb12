"""Waits for steps in the order in which they were begun, while later ones are begun elsewhere."""

import queue
import threading
from collections.abc import Callable

from cloud_server.core.actions import Step
from cloud_server.daemon.step_runner import RunningStep
from cloud_server.engines.engine import EngineLostError, MiddleEngine, PipelinedEngine


def steps_in_flight(engine: MiddleEngine) -> int:
    """How many steps an engine works on at once."""
    return engine.max_steps_in_flight if isinstance(engine, PipelinedEngine) else 1


class StepFinisher:
    """A thread of its own. `finish` may raise EngineLostError; then `on_lost` is called, once, and
    whatever follows is dropped."""

    def __init__(
        self, finish: Callable[[Step, RunningStep], None], on_lost: Callable[[], None]
    ) -> None:
        self._finish = finish
        self._on_lost = on_lost
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._reason: str | None = None
        self._thread = threading.Thread(target=self._run, name="engine-finisher", daemon=True)
        self._thread.start()

    def add(self, step: Step, running: RunningStep) -> None:
        """Finish a step after those added before; their number is bounded by who begins them."""
        self._work.put(lambda: self._finish(step, running))

    def add_failure(self, tell: Callable[[], None]) -> None:
        """Tell of a step that did not begin, after those before it."""
        self._work.put(tell)

    def stop(self) -> str | None:
        """Finish what was added and end the thread; why the engine was lost, if it was."""
        self._work.put(None)
        self._thread.join()
        return self._reason

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            if self._reason is not None:
                continue
            try:
                work()
            except EngineLostError as error:
                self._reason = str(error)
                self._on_lost()

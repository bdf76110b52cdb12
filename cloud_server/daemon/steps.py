"""Between the daemon and what performs its steps: a thread with an engine, or a twin in memory."""

from typing import Protocol

from cloud_server.core.actions import Step, StepOutcome


class StepListener(Protocol):
    """Told in the event loop how steps ended, in their order, and when the engine is lost."""

    def on_step_done(self, step: Step, outcome: StepOutcome) -> None:
        """A step ran."""
        ...

    def on_step_failed(self, step: Step, reason: str) -> None:
        """A step raised; `reason` is safe to show. The next one is performed all the same."""
        ...

    def on_engine_lost(self, reason: str) -> None:
        """The engine and its caches are gone. No step that was submitted before will be told of,
        and none is to be submitted until `on_engine_ready`."""
        ...

    def on_engine_ready(self) -> None:
        """A lost engine was loaded again."""
        ...

    def on_engine_given_up(self) -> None:
        """A lost engine could not be loaded again; no step will be performed any more."""
        ...


class Steps(Protocol):
    """Performs steps in the order in which they are submitted, and tells its listener.

    A simulator's twin runs a step at once with a `StepRunner` and tells of it after the seconds
    that it would have taken; `EngineThread` is the real one.
    """

    def listen(self, listener: StepListener) -> None:
        """Say who is told of steps, before the first one."""
        ...

    def submit(self, step: Step) -> None:
        """Queue a step."""
        ...

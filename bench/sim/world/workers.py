"""Threads that take time: a device's engine, and a cloud's pipeline of steps."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from bench.sim.world.device_engine import SimEngine
from bench.sim.world.times import StepTime
from cloud_server.core.actions import Step, StepOutcome
from cloud_server.daemon.steps import StepListener
from device_runtime.engines.engine import DeviceEngine
from wire.messages import Payload

T = TypeVar("T")

Run = Callable[[Step], tuple[Payload, ...]]
"""A step's wanted rows."""


class SimWorkers:
    """A device's `Workers`: calls run at once and in turn, and each lets its time pass."""

    def __init__(self, engine: SimEngine, thread_s: float) -> None:
        self.sim_engine = engine
        self._loop = asyncio.get_running_loop()
        self._thread_s = thread_s
        self._is_busy = False
        self._waiting: deque[asyncio.Future[None] | Callable[[DeviceEngine], None]] = deque()

    @property
    def engine(self) -> DeviceEngine:
        """See `Workers`."""
        return self.sim_engine

    def clock(self) -> float:
        """The time, within a call on the engine too: then with what it has taken so far."""
        return self._loop.time() + self.sim_engine.spent_s

    async def run(self, call: Callable[[DeviceEngine], T]) -> T:
        """See `Workers`."""
        if self._is_busy:
            await self._turn()
        self._is_busy = True
        engine = self.sim_engine
        try:
            result = call(engine)
        except BaseException:
            engine.spent_s = 0.0
            self._pass_on()
            raise
        spent_s, engine.spent_s = engine.spent_s + self._thread_s, 0.0
        if not spent_s:
            self._pass_on()
            return result
        done = self._loop.create_future()
        self._loop.call_later(spent_s, self._done, done)
        await done
        return result

    async def spend(self, seconds: float) -> None:
        """Let work of so many seconds pass."""

        def work(_: DeviceEngine) -> None:
            self.sim_engine.spent_s += seconds

        await self.run(work)

    def run_later(self, call: Callable[[DeviceEngine], None]) -> None:
        """See `Workers`; what nobody waits for takes no time."""
        if self._is_busy:
            self._waiting.append(call)
        else:
            call(self.sim_engine)

    def close(self) -> None:
        """See `Workers`."""

    async def _turn(self) -> None:
        """Wait until nobody who came before is left."""
        turn = self._loop.create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # It had just been given.
                self._pass_on()
            raise

    def _done(self, done: "asyncio.Future[None]") -> None:
        """A call has ended, whether or not its caller was cancelled meanwhile."""
        if not done.done():
            done.set_result(None)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not isinstance(turn, asyncio.Future):
                turn(self.sim_engine)
            elif not turn.done():
                turn.set_result(None)
                return
        self._is_busy = False


class SimPipeline:
    """What a cloud's `EngineThread` does for its daemon: steps go through stages, in time.

    Each stage takes an equal share of a step. `steps` are the rows and seconds of those with rows.
    """

    def __init__(self, run: Run, step_time: StepTime, num_stages: int, hand_over_s: float) -> None:
        self.steps: list[tuple[int, float]] = []
        self._run = run
        self._step_time = step_time
        self._hand_over_s = hand_over_s
        self._stage_free_s = [0.0] * num_stages
        self._loop = asyncio.get_running_loop()
        self._listener: StepListener | None = None
        self._under_way: deque[tuple[Step, StepOutcome]] = deque()
        self._is_lost = False

    def listen(self, listener: StepListener) -> None:
        """See `EngineThread`."""
        self._listener = listener

    def submit(self, step: Step) -> None:
        """See `EngineThread`."""
        now = self._loop.time()
        seconds = self._step_time.of(step) if step.items else 0.0
        done_s = self._through_the_stages(now, seconds)
        outcome = StepOutcome(self._run(step), done_s - now)
        self._under_way.append((step, outcome))
        self._loop.call_at(done_s, self._done)

    def stop(self) -> None:
        """Be gone: nothing is told any more."""
        self._under_way.clear()
        self._is_lost = True

    def _through_the_stages(self, now: float, seconds: float) -> float:
        """When the last stage is done with a step that is given out now."""
        share_s = seconds / len(self._stage_free_s)
        done_s = now
        for stage, busy_until_s in enumerate(self._stage_free_s):
            hand_over_s = self._hand_over_s if stage else 0.0
            done_s = max(done_s + hand_over_s, busy_until_s) + share_s
            self._stage_free_s[stage] = done_s
        return done_s

    def _done(self) -> None:
        if self._is_lost:
            return
        step, outcome = self._under_way.popleft()
        if step.items:
            self.steps.append((step.num_tokens, outcome.seconds))
        assert self._listener is not None, "the daemon listens"
        self._listener.on_step_done(step, outcome)

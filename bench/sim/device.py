"""A device under virtual time: the production runtime and link, on an engine that takes time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from bench.link.shaper import Shaper, directions
from bench.link.spec import LinkSpec
from bench.sim.cloud import FINGERPRINT, FIRST_LAYER, NUM_LAYERS, Line, Replica, least_loaded
from bench.sim.scenario import Scenario
from bench.sim.world.device_engine import SimEngine
from bench.sim.world.link import PlainWay, leg_down, leg_up
from bench.sim.world.tcp import TcpWay
from bench.sim.world.times import NO_TIME, DeviceTimes
from bench.sim.world.workers import SimWorkers
from chunking.state_monitor import StateMonitor
from device_runtime.link.config import LinkConfig, ModelIdentity
from device_runtime.link.link import Link
from device_runtime.runtime.runtime import Runtime
from process.sockets.memory import MemorySocket, memory_pair

_NO_TIMES = DeviceTimes(NO_TIME, NO_TIME, 0.0, 0.0)

SimWay = PlainWay | TcpWay


@dataclass(frozen=True, slots=True)
class Ways:
    """Both ways of a link."""

    up: SimWay
    down: SimWay


def make_ways(spec: LinkSpec, scenario: Scenario, number: int, frame_s: float = 0.0) -> Ways:
    """Of a device's link; by segments where the scenario says so or the rate changes.

    Each frame costs `frame_s`, half of it on its way up and half on its way down.
    """
    loop = asyncio.get_running_loop()
    up, down = leg_up(spec, frame_s / 2), leg_down(spec, frame_s / 2)
    draws = [Random(f"{scenario.seed}/{way}/{number}") for way in ("up", "down")]
    if not (scenario.by_segments and spec.is_shaped) and spec.trace is None:
        return Ways(PlainWay(loop, up, draws[0]), PlainWay(loop, down, draws[1]))
    shapers = [
        Shaper(direction, draw.random)
        for direction, draw in zip(directions(spec), draws, strict=True)
    ]
    return Ways(TcpWay(loop, up, shapers[0]), TcpWay(loop, down, shapers[1]))


class Device:
    """One device, which connects when it is made. `edge` is the link to users, where that is one:
    with a model that is wholly in the cloud the runtime stands beside it."""

    def __init__(self, scenario: Scenario, number: int, replicas: Sequence[Replica]) -> None:
        self._scenario = scenario
        self._number = number
        self._replicas = replicas
        loop = asyncio.get_running_loop()
        spec, arm, cloud = scenario.devices[number], scenario.arm, scenario.cloud
        is_beside = arm.where == "cloud"
        self.draws = Random(f"{scenario.seed}/device/{number}")
        self.spec = spec
        self.edge = make_ways(spec.link, scenario, number) if is_beside else None
        self._frame_s = 0.0 if is_beside else cloud.overheads.frame_s
        self._link_spec = LinkSpec() if is_beside else spec.link
        limits = None
        if arm.drafts == "adapter":
            limits = replace(scenario.draft_limits, are_all=arm.drafts_to_the_end)
        config = replace(arm.device, drafter="none" if limits is None else "adapter")
        self.engine = SimEngine(
            _NO_TIMES if is_beside else spec.times,
            cloud.hidden_size,
            cloud.core.max_context_tokens,
            limits,
            arm.returns_all_rows,
        )
        self.workers = SimWorkers(self.engine, spec.overheads.thread_s)
        model = ModelIdentity(FINGERPRINT, FIRST_LAYER, NUM_LAYERS, cloud.hidden_size)
        self.link = Link(
            LinkConfig("ws://cloud", model, patience=scenario.patience),
            loop.time,
            self.draws,
            StateMonitor(is_robust=config.chunking != "paper"),
            self._dial,
        )
        self.runtime = Runtime(self.workers, self.link, config, self.workers.clock, self.draws)
        self.runtime.start()

    def scale_times(self, factor: float) -> None:
        """Compute `factor` times as slowly as the device's own times say."""
        self.engine.times = self.spec.times.scaled(factor)

    @contextlib.asynccontextmanager
    async def _dial(self) -> AsyncIterator[MemorySocket]:
        replica = least_loaded(self._replicas)
        ways = make_ways(self._link_spec, self._scenario, self._number, self._frame_s)
        line = Line(*memory_pair(ways.up, ways.down))
        serving = replica.accept(line, f"device {self._number + 1}")
        try:
            yield line.near
        finally:
            line.cut()
            await asyncio.wait([serving])

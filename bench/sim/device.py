"""A device under virtual time: the production runtime and link, on an engine that takes time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from random import Random

from bench.link.luck import Luck
from bench.link.shaper import Shaper, directions
from bench.link.spec import LinkSpec
from bench.sim.cloud import Replica, least_loaded
from bench.sim.scenario import Scenario
from bench.sim.world.coding import SimCoding
from bench.sim.world.engine import SimEngine, SimWorkers
from bench.sim.world.link import PlainWay, legs
from bench.sim.world.tcp import TcpWay
from bench.sim.world.times import NO_TIME, DeviceTimes
from chunking.state_monitor import StateMonitor
from device_runtime.link.coding import LinkCoding
from device_runtime.link.config import LinkConfig, ModelIdentity
from device_runtime.link.link import Link
from device_runtime.runtime.runtime import Runtime
from process.sockets.memory import MemorySocket, Way, memory_pair
from wire.coding.row_codecs import NO_CODECS
from wire.messages import Codec

_BETWEEN_NAMESPACES = ("tap", "netem")
"""Kinds of live links that the kernel's TCP crosses as it would a real one."""

_NO_TIMES = DeviceTimes(NO_TIME, NO_TIME, 0.0, 0.0)


SharedLink = tuple[Shaper, Shaper]
"""The bottleneck up and the one down, of all devices."""


def shared_link(scenario: Scenario) -> SharedLink:
    """What all devices of a scenario are behind."""
    there, back = directions(scenario.devices[0].link)
    lucks = [Luck.seeded(f"{scenario.seed}/{way}/all") for way in ("up", "down")]
    return Shaper(there, lucks[0]), Shaper(back, lucks[1])


def make_ways(
    spec: LinkSpec,
    scenario: Scenario,
    number: int,
    frame_s: float = 0.0,
    shared: SharedLink | None = None,
) -> tuple[Way, Way]:
    """Up and down a device's link; by segments where live links show TCP's own dynamics, the rate
    changes, or others share it."""
    loop = asyncio.get_running_loop()
    up, down = legs(spec, frame_s)
    up = replace(up, is_slow_after_pause=scenario.devices[number].is_slow_after_pause)
    if shared is not None:
        return TcpWay(loop, up, shared[0]), TcpWay(loop, down, shared[1])
    seeds = [f"{scenario.seed}/{way}/{number}" for way in ("up", "down")]
    is_tcp_seen = scenario.link.kind in _BETWEEN_NAMESPACES and spec.is_shaped
    if not is_tcp_seen and spec.trace is None:
        return PlainWay(loop, up, Random(seeds[0])), PlainWay(loop, down, Random(seeds[1]))
    there, back = directions(spec)
    return (
        TcpWay(loop, up, Shaper(there, Luck.seeded(seeds[0]))),
        TcpWay(loop, down, Shaper(back, Luck.seeded(seeds[1]))),
    )


class Device:
    """One device, which connects when it is made. `edge` is the link to users, where that is one:
    with a model that is wholly in the cloud the runtime stands beside it."""

    def __init__(
        self,
        scenario: Scenario,
        number: int,
        replicas: Sequence[Replica],
        shared: SharedLink | None = None,
    ) -> None:
        self.scenario = scenario
        self._shared = shared
        self.spec = scenario.devices[number]
        self._number = number
        self._replicas = replicas
        self._draws = Random(f"{scenario.seed}/device/{number}")
        self._num_asked = 0
        arm, core = scenario.arm, scenario.cloud.core
        is_beside = arm.where == "cloud"
        self.edge = make_ways(self.spec.link, scenario, number) if is_beside else None
        self._frame_s = 0.0 if is_beside else scenario.cloud.overheads.frame_s
        self._link_spec = LinkSpec() if is_beside else self.spec.link
        limits = replace(scenario.draft_limits, are_all=arm.drafts_to_the_end)
        self.engine = SimEngine(
            _NO_TIMES if is_beside else self.spec.times,
            core.hidden_size,
            core.max_context_tokens,
            limits if arm.has_drafts else None,
            arm.returns_all_rows,
        )
        self.workers = SimWorkers(self.engine, self.spec.overheads.thread_s)
        model = ModelIdentity(core.fingerprint, core.first_layer, core.num_layers, core.hidden_size)
        self.link = self._make_link(model)
        clock = self.workers.clock
        self.runtime = Runtime(self.workers, self.link, arm.device, clock, self._draws)
        self.runtime.start()

    def _make_link(self, model: ModelIdentity) -> Link:
        """Which codes rows if the scenario and the arm do."""
        scenario, loop = self.scenario, asyncio.get_running_loop()
        settings = scenario.arm.device
        monitor = StateMonitor(is_robust=settings.chunking != "paper")
        config = LinkConfig("ws://cloud", model, patience=scenario.patience)
        coding = None
        if scenario.codec is not None and settings.wire_codec != "raw":
            config = replace(config, codec=Codec.EXACT)
            own = SimCoding(scenario.codec)
            coding = LinkCoding(NO_CODECS, monitor, loop.time, own.aside, make=own.make)
        return Link(config, loop.time, self._draws, monitor, self._dial, coding)

    async def ready(self) -> None:
        """Wait until its program is there, and let its performance change where it is time."""
        if self.link.limits is None:
            await self.link.connected()
        modes = self.spec.modes
        if len(modes) > 1 and self._num_asked % self.spec.mode_requests == 0:
            self.engine.times = self.spec.times.scaled(self._draws.choice(modes))
        self._num_asked += 1

    @contextlib.asynccontextmanager
    async def _dial(self) -> AsyncIterator[MemorySocket]:
        replica = least_loaded(self._replicas)
        ways = make_ways(self._link_spec, self.scenario, self._number, self._frame_s, self._shared)
        near, far = memory_pair(*ways)
        serving = replica.accept(far, f"device {self._number + 1}")
        try:
            yield near
        finally:
            near.cut()
            await asyncio.wait([serving])

"""What is done to both programs, in a seeded order."""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.hostile.attacks import ATTACKS
from bench.live.processes import Child, Command
from bench.soak.programs import Program
from bench.soak.relay import Relay

_HOSTILE = "hostile: "
KILLS = ("kill cloud", "kill device", "kill both")
"""After one of these the memory of a process begins anew."""
OTHERS = ("cut", "hole", "stop cloud", "stop device", *(_HOSTILE + name for name in ATTACKS))
FAULTS = (*KILLS, *OTHERS)

_HOSTILE_SOURCE = "127.0.0.3"


@dataclass(frozen=True, slots=True)
class Pace:
    """How long faults last, and what is between them, in seconds."""

    hole_s: tuple[float, float] = (0.5, 15.0)
    stop_s: tuple[float, float] = (0.5, 15.0)
    hostile_s: tuple[float, float] = (3.0, 10.0)
    between_s: tuple[float, float] = (0.5, 6.0)


QUICK = Pace((0.3, 0.6), (0.3, 0.6), (0.6, 0.8), (0.1, 0.3))
"""For a run of seconds."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What faults happen to."""

    cloud: Program
    device: Program
    relay: Relay
    bundle: Path
    secret_file: Path
    pace: Pace


class Faults:
    """Does them, and counts."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self._scene = scene
        self._chance = random.Random(seed)
        self.num_done: Counter[str] = Counter()
        self._kinds: dict[str, Callable[[], Awaitable[object]]] = {
            "kill cloud": self._kill_cloud,
            "kill device": self._kill_device,
            "kill both": self._kill_both,
            "cut": self._cut,
            "hole": self._hole,
            "stop cloud": lambda: scene.cloud.pause(self._seconds(scene.pace.stop_s)),
            "stop device": lambda: scene.device.pause(self._seconds(scene.pace.stop_s)),
        }

    async def run(self, names: Sequence[str], seconds: float) -> None:
        """One after the other, in an order of chance, for so long; without names only the time."""
        end_s = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end_s:
            if names:
                await self.do(self._next(names))
            await asyncio.sleep(self._seconds(self._scene.pace.between_s))

    def _next(self, names: Sequence[str]) -> str:
        """One of them; all hostile neighbours together as often as each other kind."""
        hostile = [name for name in names if name.startswith(_HOSTILE)]
        kinds = [name for name in names if name not in hostile]
        one = self._chance.choice([*kinds, *([_HOSTILE] if hostile else [])])
        return self._chance.choice(hostile) if one == _HOSTILE else one

    async def each(self, names: Sequence[str]) -> None:
        """Each of them once."""
        for name in names:
            await self.do(name)
            await asyncio.sleep(self._seconds(self._scene.pace.between_s))

    async def do(self, name: str) -> None:
        """One of them."""
        if name in self._kinds:
            await self._kinds[name]()
        else:
            await self._attack(name.removeprefix(_HOSTILE))
        self.num_done[name] += 1

    async def _kill_cloud(self) -> None:
        await self._scene.cloud.kill()

    async def _kill_device(self) -> None:
        await self._scene.device.kill()
        await self._scene.device.ready()

    async def _kill_both(self) -> None:
        await asyncio.gather(self._scene.cloud.kill(), self._scene.device.kill())
        await self._scene.device.ready()

    async def _cut(self) -> None:
        self._scene.relay.cut()

    async def _hole(self) -> None:
        relay = self._scene.relay
        relay.is_hole = True
        try:
            await asyncio.sleep(self._seconds(self._scene.pace.hole_s))
        finally:
            relay.is_hole = False
            # What was swallowed leaves a stream of bytes with a gap, as no TCP does.
            relay.cut()

    async def _attack(self, name: str) -> None:
        """A hostile neighbour, straight at the cloud, from an address of its own."""
        scene = self._scene
        command = [sys.executable, "-m", "bench.hostile.attacks", name, str(scene.cloud.port)]
        command += [str(scene.bundle), str(scene.secret_file), _HOSTILE_SOURCE]
        child = await Child.start(Command(name, command))
        try:
            await asyncio.sleep(self._seconds(scene.pace.hostile_s))
        finally:
            await child.stop()

    def _seconds(self, span: tuple[float, float]) -> float:
        return self._chance.uniform(*span)

"""One soak, from two processes that start to nothing that is left."""

import asyncio
import os
import secrets
import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.soak.clients import Clients, Tally, undisturbed, wanted
from bench.soak.faults import KILLS, OTHERS, Faults, Pace, Scene
from bench.soak.programs import Program
from bench.soak.relay import Relay
from bench.soak.watching import LEFT_IN_CLOUD, LEFT_ON_DEVICE, Watch, descriptors_at_most, left

_SESSION_TTL_S = 15
_RECONNECT_TIMEOUT_S = 120
_SPARE_DESCRIPTORS = 4
"""What a library may open once and keep."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run, and how long."""

    bundle: Path
    """The folder of both bundles; a secret is written beside them."""
    seconds: float
    seed: int = 1
    num_clients: int = 4
    max_tokens: int = 120
    pace: Pace = field(default_factory=Pace)
    kills: Sequence[str] = KILLS
    others: Sequence[str] = OTHERS
    is_short: bool = False
    """Whether each fault is done once, in its order, whatever the seconds."""


@dataclass
class Outcome:
    """What came of it; `wrong` names everything that is not as it should be."""

    tally: Tally
    num_done: Counter[str]
    lines: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


async def soak(plan: Plan) -> Outcome:
    """Run it. Kills are in the first half, so that memory can be looked at in the second."""
    async with AsyncExitStack() as stack:
        scene = await _scene(plan, stack)
        cloud, device = scene.cloud, scene.device
        await cloud.ready()
        bare = _descriptors(cloud)
        await device.start()
        stack.push_async_callback(device.stop)
        await device.ready()
        idle = _descriptors(device)
        texts = await undisturbed(device.url, wanted(plan.seed, plan.max_tokens))
        outcome = Outcome(Tally(), Counter())
        watches = [Watch(cloud), Watch(device)]
        clients = Clients(device.url, texts, outcome.tally, lambda: device.num_turns)
        await _disturb(plan, scene, clients, watches, outcome)
        outcome.lines += [watch.line() for watch in watches]
        await _look_at_rest(scene, outcome, bare, idle)
        outcome.wrong += [f"a wrong text: {each}" for each in outcome.tally.wrong]
        outcome.wrong += [f"{n} x {why}" for why, n in outcome.tally.failures.items()]
        return outcome


async def _scene(plan: Plan, stack: AsyncExitStack) -> Scene:
    secret_file = plan.bundle / "secret"
    secret_file.touch(mode=0o600)
    secret_file.write_text(secrets.token_urlsafe(32))
    environ = {**os.environ, "HAT_CACHE": str(plan.bundle / "cache"), "OMP_NUM_THREADS": "1"}
    both = ["--threads", "1", "--secret-file", str(secret_file)]
    exact = ["--dtype", "float32", "--wire-dtype", "float32"]
    patience = ["--session-ttl-s", str(_SESSION_TTL_S)]
    figures_port = _free_port()
    figures = ["--metrics-port", str(figures_port)]
    options = [str(plan.bundle / "cloud"), *both, *exact, *patience, *figures]
    cloud = Program("cloud", _free_port(), options, environ, figures_port)
    relay = Relay(cloud.port)
    await relay.start()
    stack.push_async_callback(relay.close)
    way = ["--cloud", f"ws://127.0.0.1:{relay.port}"]
    way += ["--reconnect-timeout-s", str(_RECONNECT_TIMEOUT_S), "--heartbeat-s", "5"]
    options = [str(plan.bundle / "device"), *both, *way]
    device = Program("device", _free_port(), options, environ)
    await cloud.start()
    stack.push_async_callback(cloud.stop)
    return Scene(cloud, device, relay, plan.bundle, secret_file, plan.pace)


async def _disturb(
    plan: Plan, scene: Scene, clients: Clients, watches: Sequence[Watch], outcome: Outcome
) -> None:
    """Let clients ask while faults happen, and let them finish."""
    faults = Faults(scene, plan.seed)
    outcome.num_done = faults.num_done
    is_over = asyncio.Event()
    watching = [asyncio.create_task(watch.run()) for watch in watches]
    asking = [
        asyncio.create_task(clients.run(number, plan.seed, is_over))
        for number in range(plan.num_clients)
    ]
    try:
        if plan.is_short:
            await faults.each([*plan.kills, *plan.others])
        else:
            await faults.run([*plan.kills, *plan.others], plan.seconds / 2)
            await faults.run(plan.others, plan.seconds / 2)
        is_over.set()
        await asyncio.gather(*asking)
    finally:
        for task in (*watching, *asking):
            task.cancel()
        await asyncio.gather(*watching, *asking, return_exceptions=True)


async def _look_at_rest(scene: Scene, outcome: Outcome, bare: int, idle: int) -> None:
    """Nobody asks any more; then the device goes, and the cloud holds nothing."""
    cloud, device = scene.cloud, scene.device
    await device.ready()
    running = await left(device, LEFT_ON_DEVICE)
    held = await descriptors_at_most(device, idle + _SPARE_DESCRIPTORS)
    if running or held > idle + _SPARE_DESCRIPTORS:
        outcome.wrong.append(f"the device at rest: {running}, descriptors {idle} to {held}")
    await device.stop()
    remaining = await left(cloud, LEFT_IN_CLOUD)
    kept = await descriptors_at_most(cloud, bare + _SPARE_DESCRIPTORS)
    if remaining or kept > bare + _SPARE_DESCRIPTORS:
        outcome.wrong.append(f"the cloud at rest: {remaining}, descriptors {bare} to {kept}")
    outcome.lines.append(
        f"at rest: device descriptors {idle} to {held}; cloud {remaining or 'holds nothing'}, "
        f"descriptors {bare} to {kept}"
    )


def _descriptors(program: Program) -> int:
    found = program.footprint()
    return 0 if found is None else found.num_descriptors


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port

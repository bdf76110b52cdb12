"""Both daemons as they are, under virtual time: sockets with a rate and a delay, nothing patched.

Only what computes has a twin, which lets the time pass that it would take.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from device_runtime.config import DeviceConfig
from device_runtime.generation.request import SamplingParams
from device_runtime.link.link import Link
from device_runtime.runtime.runtime import Runtime
from process.sockets.memory import MemorySocket, Steady, memory_pair
from process.virtual_loop import EndlessWaitError, VirtualLoop, run_virtual
from tests.support.fake_cloud import FakeCloud
from tests.support.fake_model import VOCAB_SIZE, FakeDeviceEngine
from tests.support.fake_runtime import KEEP_SOME, expected, request
from tests.support.memory_cloud import MemoryCloud
from tests.support.memory_link import InlineWorkers

UP_BYTES_PER_S, DOWN_BYTES_PER_S, DELAY_S = 1e5, 2e5, 0.02
NUM_DEVICES, NUM_REQUESTS = 4, 3


class Devices:
    """Some devices on one cloud, each with a link of its own, which may be cut now and then."""

    def __init__(self, randomness: random.Random, cut_every_s: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._cloud = MemoryCloud()
        self._randomness = randomness
        self._cut_every_s = cut_every_s
        self.first_token_s: list[float] = []
        self.num_recoveries = 0

    @contextlib.asynccontextmanager
    async def _dial(self) -> AsyncIterator[MemorySocket]:
        up = Steady(self._loop, UP_BYTES_PER_S, DELAY_S)
        down = Steady(self._loop, DOWN_BYTES_PER_S, DELAY_S)
        device, cloud = memory_pair(up, down)
        serving = asyncio.create_task(self._cloud.serve(cloud))
        if self._cut_every_s is not None:
            pause_s = self._randomness.expovariate(1 / self._cut_every_s)
            self._loop.call_later(pause_s, device.abort)
        try:
            yield device
        finally:
            await serving

    async def run(self) -> float:
        """Every device asks for its answers, one after another; the seconds it took."""
        await asyncio.gather(*(self._ask() for _ in range(NUM_DEVICES)))
        await self._cloud.stop()
        return self._loop.time()

    async def _ask(self) -> None:
        clock, randomness = self._loop.time, self._randomness
        link = Link(FakeCloud().config(), clock, randomness, dial=self._dial)
        workers = InlineWorkers(FakeDeviceEngine(), 0.003)
        config = DeviceConfig(bundle=Path("unused"))
        runtime = Runtime(workers, link, config, clock, randomness, KEEP_SOME)
        runtime.start()
        await link.connected()
        for _ in range(NUM_REQUESTS):
            await self._answer(runtime)
        await runtime.close()

    async def _answer(self, runtime: Runtime) -> None:
        draw = self._randomness
        await asyncio.sleep(draw.expovariate(1.0))
        prompt_ids = [draw.randrange(VOCAB_SIZE) for _ in range(draw.randrange(4, 50))]
        sampling = SamplingParams(seed=draw.randrange(99), logit_bias={3: 30.0, 5: 31.0})
        wanted = request(prompt_ids, 30, sampling=sampling)
        ids: list[int] = []
        stream = runtime.generate(wanted, "test")
        async for emission in stream:
            ids += [token.id for token in emission.tokens]
        assert ids == expected(wanted)
        assert stream.stats.first_token_s is not None
        self.first_token_s.append(stream.stats.first_token_s)
        self.num_recoveries += stream.stats.num_recoveries


def run_devices(seed: int, cut_every_s: float | None = None) -> tuple[float, list[float], int]:
    """Seconds that passed, the times to the first token, and how often a cloud was got back."""

    async def run() -> tuple[float, list[float], int]:
        devices = Devices(random.Random(seed), cut_every_s)
        seconds = await devices.run()
        return seconds, devices.first_token_s, devices.num_recoveries

    return run_virtual(run)


@pytest.mark.parametrize("cut_every_s", [None, 1.0])
def test_every_answer_is_the_unsplit_models_and_two_runs_are_the_same(
    cut_every_s: float | None,
) -> None:
    first = run_devices(1, cut_every_s)
    assert first == run_devices(1, cut_every_s)
    assert first != run_devices(2, cut_every_s)
    _, first_token_s, num_recoveries = first
    assert len(first_token_s) == NUM_DEVICES * NUM_REQUESTS
    assert min(first_token_s) > 2 * DELAY_S
    assert (num_recoveries > 3) is (cut_every_s is not None)


def test_who_waits_for_ever_is_told_where() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    async def tick() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(1.0)

    with pytest.raises(EndlessWaitError, match=r"everybody waits for ever: .* at .*\.py:\d+"):
        run_virtual(wait)
    with (
        asyncio.Runner(loop_factory=partial(VirtualLoop, 60.0)) as runner,
        pytest.raises(EndlessWaitError, match=r"expected an end before 60 s: .* at .*\.py:\d+"),
    ):
        runner.run(tick())

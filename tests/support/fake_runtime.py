"""A runtime on the integer model and its cloud, over a socket, real or in memory."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_runtime.config import DeviceConfig
from device_runtime.engines.thread import EngineThread
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.link.link import Link
from device_runtime.runtime.runtime import Generation, Runtime
from device_runtime.runtime.shelf import Shelf
from device_runtime.sampling.noise import PositionNoise
from device_runtime.session.prefix_cache import PrefixCacheLimits
from tests.support.event_loop import is_virtual, until
from tests.support.fake_cloud import FakeCloud
from tests.support.fake_model import VOCAB_SIZE, FakeDeviceEngine, plain_text
from tests.support.memory_link import InlineWorkers, MemoryNetwork
from tests.support.world import world_here

KEEP_NONE = PrefixCacheLimits(max_sessions=0, max_tokens=0, min_shared_tokens=1)
KEEP_SOME = PrefixCacheLimits(max_sessions=3, max_tokens=1000, min_shared_tokens=4)

PROMPT = [(7 * i * i + 3) % VOCAB_SIZE for i in range(20)]


def expected(wanted: GenerationRequest, num_output_layers: int = 0) -> list[int]:
    """The output of the unsplit integer model."""
    return plain_text(wanted, PositionNoise(wanted.sampling.seed), num_output_layers)


async def rest(generation: Generation) -> list[int]:
    """What is still to come of an output."""
    return [token.id async for emission in generation for token in emission.tokens]


@dataclass
class Bench:
    """The runtime and everything below it."""

    runtime: Runtime
    cloud: Any
    engine: FakeDeviceEngine
    link: Link

    @property
    def network(self) -> MemoryNetwork:
        """Between them, in virtual time."""
        network = self.cloud.network
        assert isinstance(network, MemoryNetwork)
        return network

    async def ids(self, request: GenerationRequest) -> list[int]:
        """The whole output."""
        emissions = self.runtime.generate(request, "test")
        return [token.id async for emission in emissions for token in emission.tokens]

    @property
    def num_kept(self) -> int:
        """Finished sessions that are still open."""
        return len(self.runtime._places._kept)

    async def freed(self, num_kept: int = 0) -> None:
        """Wait until only so many sessions are left on both sides."""
        await until(lambda: len(self.cloud.live) == num_kept == self.engine.num_open)
        assert self.runtime.admission.num_running == 0


@contextlib.asynccontextmanager
async def bench(
    cloud: Any = None,
    engine: FakeDeviceEngine | None = None,
    kept: PrefixCacheLimits = KEEP_NONE,
    shelf: Shelf | None = None,
    **settings: object,
) -> AsyncIterator[Bench]:
    """A connected runtime, taken down at the end. `cloud` is another than a `FakeCloud`, if any."""
    cloud = cloud or FakeCloud()
    engine = engine or FakeDeviceEngine()
    await cloud.start()
    link = cloud.make_link()
    if "chunk_tokens" in settings:
        settings.setdefault("chunking", "fixed")
    config = DeviceConfig(bundle=Path("unused"), **settings)
    workers = InlineWorkers(engine) if is_virtual() else EngineThread(engine)
    world = world_here()
    runtime = Runtime(workers, link, config, world.clock, world.randomness, kept, shelf=shelf)
    runtime.start()
    try:
        await link.connected()
        yield Bench(runtime, cloud, engine, link)
    finally:
        await runtime.close()
        await cloud.stop()


def request(prompt_ids: list[int], max_tokens: int = 20, **fields: object) -> GenerationRequest:
    """Sampled with a seed, unless told otherwise."""
    fields.setdefault("sampling", SamplingParams(seed=11))
    return GenerationRequest(prompt_ids=prompt_ids, max_tokens=max_tokens, **fields)

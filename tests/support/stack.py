"""Device and cloud, real ones, in one process, joined by a real socket."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cloud_server.config import CloudConfig
from cloud_server.server import CloudServer
from device_runtime.config import DeviceConfig
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.generation.stats import GenerationStats
from device_runtime.runtime.runtime import Runtime
from device_runtime.server import DeviceServer, serve_device
from submodels.split import SplitOptions, split_checkpoint
from tests.support.world import REAL, serve_cloud

GREEDY = SamplingParams(temperature=0.0)
CONNECT_S = 20.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stack:
    """Both sides, connected."""

    cloud: CloudServer
    device: DeviceServer

    @property
    def runtime(self) -> Runtime:
        """The device's runtime: ids in, ids out."""
        return self.device.runtime


def split_for_serving(model: Path, out: Path, num_input: int, num_output: int = 0) -> Path:
    """Bundles of a checkpoint, float32 ONNX only, below `out`."""
    options = SplitOptions(str(model), out, num_input, num_output, onnx_weights=("float32",))
    return split_checkpoint(options).out


def cloud_config(bundles: Path, settings: Mapping[str, Any] | None = None) -> CloudConfig:
    """A small cloud on a free port, float32 inside and on the link."""
    exact = {"dtype": "float32", "wire_dtype": "float32"}
    chosen: dict[str, Any] = {"capacity_tokens": 40_000, "threads": 1, **exact}
    return CloudConfig(bundle=bundles, port=0, **(chosen | dict(settings or {})))


@asynccontextmanager
async def connected_device(
    bundles: Path, cloud_url: str, settings: Mapping[str, Any] | None = None
) -> AsyncIterator[DeviceServer]:
    """A device that has reached its cloud."""
    chosen: dict[str, Any] = {"threads": 1} | dict(settings or {})
    if "chunk_tokens" in chosen:
        chosen.setdefault("chunking", "fixed")
    config = DeviceConfig(bundle=bundles, port=0, cloud=cloud_url, **chosen)
    async with serve_device(config, REAL) as device:
        async with asyncio.timeout(CONNECT_S):
            await device.link.connected()
        yield device


@asynccontextmanager
async def running_stack(
    bundles: Path,
    device: Mapping[str, Any] | None = None,
    cloud: Mapping[str, Any] | None = None,
) -> AsyncIterator[Stack]:
    """A cloud and a device over the bundles below one folder."""
    async with (
        serve_cloud(cloud_config(bundles, cloud)) as cloud_server,
        connected_device(bundles, cloud_server.url, device) as device_server,
    ):
        yield Stack(cloud_server, device_server)


async def generate_ids(runtime: Runtime, request: GenerationRequest) -> list[int]:
    """All token ids of one generation."""
    ids: list[int] = []
    async with aclosing(runtime.generate(request, "test")) as emissions:
        async for emission in emissions:
            ids.extend(token.id for token in emission.tokens)
    return ids


async def generate_with_stats(
    runtime: Runtime, request: GenerationRequest
) -> tuple[list[int], GenerationStats]:
    """All token ids of one generation, and what it did."""
    ids: list[int] = []
    generation = runtime.generate(request, "test")
    async with aclosing(generation) as emissions:
        async for emission in emissions:
            ids.extend(token.id for token in emission.tokens)
    return ids, generation.stats


async def gather_bounded(
    calls: Sequence[Callable[[], Coroutine[Any, Any, T]]], at_once: int
) -> list[T]:
    """The results of all calls in order, so many running at a time."""
    places = asyncio.Semaphore(at_once)

    async def run(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with places:
            return await call()

    return await asyncio.gather(*(run(call) for call in calls))

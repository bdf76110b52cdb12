"""A device that meets another replica goes on with the same ids, and pays with a replay."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloud_server.server import CloudServer
from device_runtime.generation.request import GenerationRequest
from device_runtime.generation.stats import GenerationStats
from device_runtime.runtime.runtime import Runtime
from tests.support.broken_link import BrokenLink, broken_link
from tests.support.fake_runtime import PROMPT, bench, expected, request, rest
from tests.support.memory_cloud import MemoryCloud
from tests.support.reference import STORIES, Greedy, greedy, load_reference, story_prompts
from tests.support.stack import (
    GREEDY,
    cloud_config,
    connected_device,
    generate_with_stats,
    serve_cloud,
    split_for_serving,
)

MAX_TOKENS = 40
STOP_IDS = frozenset({1, 2})
ROW_BYTES = 64 * 4
"""Of stories260k in float32."""

# One row per round and nothing reused: what crosses the link is the same in every run.
PLAIN = {
    "drafter": "none",
    "chunk_tokens": 8,
    "kept_sessions": 0,
    "reconnect_timeout_s": 120.0,
    "wire_codec": "raw",
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_for_serving(STORIES, tmp_path_factory.mktemp("stories"), 1)


@pytest.fixture(scope="module")
def story() -> tuple[list[int], Greedy]:
    (prompt,) = story_prompts(1)
    return prompt, greedy(load_reference(STORIES), prompt, MAX_TOKENS)


@dataclass(frozen=True)
class Replicas:
    """Two clouds behind a balancer that points at the first, and a device."""

    first: CloudServer
    second: CloudServer
    balancer: BrokenLink
    runtime: Runtime

    def point_at_the_second(self) -> None:
        self.balancer.point_at(_port(self.second))

    async def generate(
        self, story: tuple[list[int], Greedy], strike: Callable[[], None] | None = None
    ) -> GenerationStats:
        """The story's ids are right, with a strike after most of its bytes, if any."""
        prompt, reference = story
        wanted = GenerationRequest(prompt, MAX_TOKENS, GREEDY, STOP_IDS)
        ids, calm = await generate_with_stats(self.runtime, wanted)
        assert tuple(ids) == reference.ids
        if strike is None:
            return calm
        self.balancer.strike_after(int(0.8 * (calm.bytes_up + calm.bytes_down)), strike)
        ids, stats = await generate_with_stats(self.runtime, wanted)
        assert tuple(ids) == reference.ids
        assert self.balancer.num_strikes_left == 0, "the strike came too late"
        return stats


@asynccontextmanager
async def replicas(bundles: Path) -> AsyncIterator[Replicas]:
    async with (
        serve_cloud(cloud_config(bundles)) as first,
        serve_cloud(cloud_config(bundles)) as second,
        broken_link(_port(first)) as balancer,
        connected_device(bundles, balancer.url, PLAIN) as device,
    ):
        yield Replicas(first, second, balancer, device.runtime)


def _port(cloud: CloudServer) -> int:
    return int(cloud.url.rsplit(":", 1)[1])


async def test_a_device_that_meets_another_replica_replays_and_one_that_returns_does_not(
    bundles, story
):
    async with replicas(bundles) as both:

        def move() -> None:
            both.point_at_the_second()
            both.balancer.reset()

        returned = await both.generate(story, both.balancer.reset)
        moved = await both.generate(story, move)
        assert returned.num_recoveries == moved.num_recoveries == 1
        # All of the prompt goes up a second time, and what had been generated with it.
        assert moved.bytes_up - returned.bytes_up >= len(story[0]) * ROW_BYTES
        assert both.second.daemon is not None
        assert both.second.daemon.figures().num_connections == 1


@pytest.mark.event_loop("virtual")
@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.2, 0.4])
async def test_an_answer_outlives_the_replica_that_is_shut_down(after_s):
    first, second = MemoryCloud(), MemoryCloud()
    async with bench(first, drafter="none", reconnect_timeout_s=30.0) as it:
        wanted = request(PROMPT, 60)
        stream = it.runtime.generate(wanted, "test")
        ids = [token.id for token in (await anext(stream)).tokens]
        reading = asyncio.ensure_future(rest(stream))
        await asyncio.sleep(after_s)
        it.network.cloud = second
        await first.stop()
        assert ids + await reading == expected(wanted)
        assert stream.stats.num_recoveries == 1
        assert second.daemon.figures().num_connections == 1
    await second.stop()

"""A device's answers outlive the loss of a real engine, with the tokens they would have had."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud_server.config import CloudConfig
from cloud_server.core.actions import Step
from cloud_server.engines.chosen import load_chosen_engine
from cloud_server.engines.engine import MiddleEngine, Rows, StepItem
from cloud_server.engines.loading import LoadedEngine
from device_runtime.generation.request import GenerationRequest
from submodels.bundle.bundle import Bundle
from tests.support.cloud_client import http_get, until
from tests.support.fake_pipeline import lost
from tests.support.fake_runtime import PROMPT, bench, expected, request, rest
from tests.support.memory_cloud import MemoryCloud
from tests.support.reference import STORIES, story_prompts
from tests.support.stack import (
    GREEDY,
    cloud_config,
    connected_device,
    generate_ids,
    split_for_serving,
)
from tests.support.world import serve_cloud

NUM_GENERATIONS = 8
NUM_TOKENS = 30
LOAD_S = 5.0


class DoomedEngine:
    """Another engine that is lost at a seeded share of its steps, before or after they ran."""

    def __init__(self, engine: MiddleEngine, is_lost_now: Callable[[], bool]) -> None:
        self._engine = engine
        self._is_lost_now = is_lost_now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def step(self, batch: list[StepItem]) -> list[Rows]:
        """See `MiddleEngine.step`."""
        if self._is_lost_now():
            raise lost()
        rows = self._engine.step(batch)
        if self._is_lost_now():
            raise lost()
        return rows


class DoomedLoader:
    """Loads the chosen engine; `num_losses` of them are lost."""

    def __init__(self, num_losses: int, seed: int) -> None:
        self._num_left = num_losses
        self._draws = random.Random(seed)
        self.num_loads = 0

    def __call__(self, bundle: Bundle, config: CloudConfig) -> LoadedEngine:
        self.num_loads += 1
        loaded = load_chosen_engine(bundle, config)
        doomed = DoomedEngine(loaded.engine, self._is_lost_now)
        return LoadedEngine(doomed, loaded.description, loaded.kv_bytes_per_token)

    def _is_lost_now(self) -> bool:
        if self._num_left == 0 or self._draws.random() > 0.1:
            return False
        self._num_left -= 1
        return True


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_for_serving(STORIES, tmp_path_factory.mktemp("stories"), 1)


async def generate_all(bundles: Path, loader: DoomedLoader) -> tuple[list[list[int]], str]:
    """What eight generations at once give, and the cloud's metrics."""
    requests = [
        GenerationRequest(prompt, NUM_TOKENS, GREEDY)
        for prompt in story_prompts()[:NUM_GENERATIONS]
    ]
    async with (
        serve_cloud(cloud_config(bundles), loader) as cloud,
        connected_device(bundles, cloud.url, {"engine": "torch"}) as device,
    ):
        ids = await asyncio.gather(*(generate_ids(device.runtime, r) for r in requests))
        assert await http_get(f"{cloud.http_url}/ready") == (200, "ready")
        _, page = await http_get(f"{cloud.metrics_url}/metrics")
        await until(lambda: cloud.daemon.figures().num_running_sessions == 0)
    return ids, page


@pytest.fixture(scope="module")
def undisturbed(bundles: Path) -> list[list[int]]:
    ids, page = asyncio.run(generate_all(bundles, DoomedLoader(0, 0)))
    assert "hat_cloud_engine_restarts_total 0.0" in page
    return ids


async def test_generations_end_with_the_same_ids_however_often_the_engine_is_lost(
    bundles, undisturbed
):
    loader = DoomedLoader(4, seed=1)
    ids, page = await generate_all(bundles, loader)
    assert ids == undisturbed
    assert loader.num_loads == 5
    assert "hat_cloud_engine_restarts_total 4.0" in page


@pytest.mark.event_loop("virtual")
@pytest.mark.parametrize("seed", range(20))
async def test_a_lost_engine_costs_its_load_and_no_token_whatever_it_was_doing(seed: int) -> None:
    draws, num_left = random.Random(seed), 4

    def breaks(step: Step) -> Exception | None:
        nonlocal num_left
        if num_left == 0 or not step.items or draws.random() > 0.05:
            return None
        num_left -= 1
        return lost()

    cloud = MemoryCloud(load_s=LOAD_S)
    cloud.steps.breaks = breaks
    async with bench(cloud) as it:
        wanted = [request(PROMPT[:length], 30) for length in range(4, 20, 2)]
        streams = [it.runtime.generate(each, "test") for each in wanted]
        came = await asyncio.gather(*map(rest, streams))
        assert came == [expected(each) for each in wanted]
        assert num_left == 0
        assert max(stream.stats.recovery_s for stream in streams) > LOAD_S
        assert not cloud.daemon.is_restarting

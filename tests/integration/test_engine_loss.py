"""A lost engine is loaded again: devices notice a delay, and nothing of the old one stays."""

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cloud_server import server as cloud_server
from cloud_server.config import CloudConfig
from cloud_server.daemon import engine_thread
from cloud_server.engines.engine import Rows, StepItem
from cloud_server.engines.loading import LoadedEngine
from cloud_server.server import CloudServer
from process.errors import StartError
from submodels.bundle.bundle import Bundle
from tests.support.cloud_client import (
    CloudClient,
    assert_serves,
    hello_for,
    http_get,
    random_rows,
    rows_of,
    session_key,
    states,
    until,
    welcomed,
)
from tests.support.fake_middle_engine import POISON, FakeMiddleEngine, deep_rows
from tests.support.fake_pipeline import FakePipeline, lost
from tests.support.world import REAL, serve_cloud
from wire.errors import FaultCode
from wire.messages import Fault, Open, SessionId


def engine_threads() -> list[str]:
    """Threads of any engine that live."""
    return [t.name for t in threading.enumerate() if t.name.startswith("engine")]


@pytest.fixture(autouse=True)
def no_threads_are_left():
    yield
    assert not [name for name in engine_threads() if name in ("engine", "engine-finisher")]


# What is seen of a restart


class LosableEngine(FakeMiddleEngine):
    """It is lost with the first step after `is_lost` is set."""

    is_lost = False

    def step(self, batch: list[StepItem]) -> list[Rows]:
        """See `MiddleEngine.step`."""
        if self.is_lost:
            raise lost()
        return super().step(batch)


class Loader:
    """Makes an engine at each call. After the first, loading waits for `may_load`, and fails
    `num_failures` times."""

    def __init__(self, make: Callable[[], FakeMiddleEngine] = LosableEngine) -> None:
        self._make = make
        self.may_load = threading.Event()
        self.may_load.set()
        self.num_failures = 0
        self.num_loads = 0
        self.num_closed = 0
        self.is_seen_to_end = False
        self.engine: Any = None
        """The newest."""

    def __call__(self, bundle: Bundle, config: CloudConfig) -> LoadedEngine:
        self.num_loads += 1
        if self.num_loads > 1:
            self.may_load.wait()
            if self.num_failures > 0:
                self.num_failures -= 1
                raise StartError("no memory is left")
        self.engine = self._make()
        return LoadedEngine(self.engine, "a fake", 4, self._close, why_lost=self._why_lost)

    def _close(self) -> None:
        self.num_closed += 1

    def _why_lost(self) -> str | None:
        has_ended = self.is_seen_to_end and self.engine.is_lost
        return "its process has ended" if has_ended else None


@pytest.fixture
def loader():
    loader = Loader()
    yield loader
    loader.may_load.set()


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(engine_thread, "_RELOAD_PAUSES_S", (0.0, 0.0, 0.0))


async def lose(client: CloudClient, loader: Loader, *numbers: int) -> list[Fault]:
    """Lose the engine with a step of a new session, the last of these; the faults of all."""
    number = numbers[-1]
    await client.open(number, session_key(number), 64)
    loader.engine.is_lost = True
    await client.send(states(number, 0, random_rows(4)))
    return [await client.expect_fault(FaultCode.INTERNAL, session=ended) for ended in numbers]


async def page(server: CloudServer, path: str) -> tuple[int, str]:
    return await http_get(f"{server.http_url}/{path}")


async def test_a_restart_is_seen_refuses_sessions_and_passes(config, bundle, loader):
    async with (
        serve_cloud(config, loader) as server,
        welcomed(server.link_url, hello_for(bundle.manifest)) as client,
    ):
        await assert_serves(client, 1, seed=1)
        loader.may_load.clear()
        # The first session had no rows under way, and ends alike.
        for fault in await lose(client, loader, 1, 2):
            assert fault.retry_after_s > 0
        assert await page(server, "ready") == (
            503,
            "the engine was lost and is being loaded again",
        )
        assert await page(server, "health") == (200, "ok")
        await client.send(Open(SessionId(3), session_key(3), 64))
        refusal = await client.expect_fault(FaultCode.INTERNAL, session=3)
        assert refusal.retry_after_s > 0
        await until(lambda: loader.num_loads == 2)
        assert loader.num_closed == 1
        loader.may_load.set()
        await until(lambda: not server.daemon.is_restarting)
        assert await page(server, "ready") == (200, "ready")
        _, figures = await http_get(f"{server.metrics_url}/metrics")
        assert "hat_cloud_engine_restarts_total 1.0" in figures
        await assert_serves(client, 4, seed=4)
        assert server.daemon.figures().num_sessions == loader.engine.num_sequences == 1
    assert loader.num_closed == loader.num_loads == 2


async def test_an_engine_that_ends_while_nobody_asks_is_back_before_somebody_does(
    config, bundle, loader, monkeypatch
):
    monkeypatch.setattr(engine_thread, "_LOOK_EVERY_S", 0.01)
    loader.is_seen_to_end = True
    async with (
        serve_cloud(config, loader) as server,
        welcomed(server.link_url, hello_for(bundle.manifest)) as client,
    ):
        loader.engine.is_lost = True
        await until(lambda: loader.num_loads == 2 and not server.daemon.is_restarting)
        assert loader.num_closed == 1
        await assert_serves(client, 1, seed=1)
    assert loader.num_closed == loader.num_loads == 2


async def test_a_new_engine_is_not_blamed_for_the_failures_of_the_lost_one(config, bundle, loader):
    async with (
        serve_cloud(config, loader) as server,
        welcomed(server.link_url, hello_for(bundle.manifest)) as client,
    ):
        poison = random_rows(2)
        poison[0, 0] = POISON
        for number in (1, 2, 3):
            await client.open(number, session_key(number), 64)
            await client.send(states(number, 0, poison))
            await client.expect_fault(FaultCode.INTERNAL, session=number)
        assert await page(server, "ready") == (503, "the engine fails every step")
        await lose(client, loader, 4)
        await until(lambda: loader.num_loads == 2 and not server.daemon.is_restarting)
        assert await page(server, "ready") == (200, "ready")


async def test_an_engine_that_is_lost_each_time_it_is_asked_is_told_of(config, bundle, loader):
    async with (
        serve_cloud(config, loader) as server,
        welcomed(server.link_url, hello_for(bundle.manifest)) as client,
    ):
        for number in (1, 2, 3):
            assert await page(server, "health") == (200, "ok")
            await lose(client, loader, number)
            await until(lambda n=number: loader.num_loads == n + 1)
            await until(lambda: not server.daemon.is_restarting)
        assert await page(server, "health") == (503, "the engine fails every step")
        # It is tried again all the same, and one step that ends is enough.
        await assert_serves(client, 4, seed=4)
        assert await page(server, "health") == (200, "ok")
        assert await page(server, "ready") == (200, "ready")


async def test_nothing_holds_on_to_a_lost_engine(config, bundle, loader):
    async with (
        serve_cloud(config, loader) as server,
        welcomed(server.link_url, hello_for(bundle.manifest)) as client,
    ):
        first = weakref.ref(loader.engine)
        await lose(client, loader, 1)
        await until(lambda: loader.num_loads == 2 and not server.daemon.is_restarting)
        gc.collect()
        assert first() is None
        await assert_serves(client, 2, seed=2)


@pytest.mark.usefixtures("no_pauses")
async def test_an_engine_that_does_not_load_is_tried_again(config, bundle, loader):
    async with (
        serve_cloud(config, loader) as server,
        welcomed(server.link_url, hello_for(bundle.manifest)) as client,
    ):
        loader.num_failures = 2
        await lose(client, loader, 1)
        await until(lambda: loader.num_loads == 4 and not server.daemon.is_restarting)
        await assert_serves(client, 2, seed=2)


@pytest.mark.usefixtures("no_pauses")
async def test_after_the_last_attempt_health_says_that_it_must_be_started_anew(
    config, bundle, loader
):
    async with (
        serve_cloud(config, loader) as server,
        welcomed(server.link_url, hello_for(bundle.manifest)) as client,
    ):
        loader.num_failures = 1000
        await lose(client, loader, 1)
        await until(lambda: server.daemon.is_given_up)
        assert loader.num_loads == 4
        lost_for_good = (503, "the engine is lost and cannot be loaded")
        assert await page(server, "health") == await page(server, "ready") == lost_for_good
        await client.send(Open(SessionId(2), session_key(2), 64))
        await client.expect_fault(FaultCode.INTERNAL, session=2)
        await until(lambda: not engine_threads())
        assert await server.close()


# Its end


async def lost_server(config: CloudConfig, bundle: Bundle, loader: Loader) -> CloudServer:
    """A server without an engine."""
    server = CloudServer(config, loader, REAL.clock)
    await server.open()
    await server.load()
    async with welcomed(server.link_url, hello_for(bundle.manifest)) as client:
        await lose(client, loader, 1)
    return server


async def test_a_stop_does_not_wait_for_an_engine_that_is_being_loaded(
    config, bundle, loader, monkeypatch
):
    monkeypatch.setattr(cloud_server, "_STOP_ENGINE_S", 0.05)

    loader.may_load.clear()
    server = await lost_server(config, bundle, loader)
    await until(lambda: loader.num_loads == 2)
    assert await server.close() is False
    # It is closed in order as soon as it is there.
    loader.may_load.set()
    await until(lambda: not engine_threads())
    assert loader.num_closed == 2


async def test_a_stop_ends_the_pause_before_another_attempt(config, bundle, loader, monkeypatch):
    monkeypatch.setattr(engine_thread, "_RELOAD_PAUSES_S", (0.0, 3600.0))

    loader.num_failures = 1
    server = await lost_server(config, bundle, loader)
    await until(lambda: loader.num_failures == 0)
    assert await server.close()
    assert (loader.num_loads, loader.num_closed) == (2, 1)


# Several steps in flight


class LosablePipeline(FakePipeline):
    """A step cannot be begun once `is_lost` is set."""

    is_lost = False

    def begin(self, batch: list[StepItem]) -> Any:
        """See `PipelinedEngine.begin`."""
        if self.is_lost:
            raise lost()
        return super().begin(batch)


@pytest.mark.parametrize("where", ["begin", "wait"])
async def test_a_loss_with_several_steps_under_way_ends_all_their_sessions(config, bundle, where):
    loader = Loader(LosablePipeline)

    async def fill(client: CloudClient, numbers: tuple[int, ...]) -> None:
        for number in numbers:
            begun = loader.engine.num_begun
            await client.send(states(number, 0, random_rows(4, number)))
            await until(lambda n=begun: loader.engine.num_begun == n + 1)

    async def lose_one(client: CloudClient) -> list[int]:
        """Which sessions were answered before."""
        engine = loader.engine
        if where == "wait":
            await fill(client, (1, 2, 3))
            engine.end_oldest(lost())
            return []
        await fill(client, (1, 2))
        engine.is_lost = True
        await client.send(states(3, 0, random_rows(4, 3)))
        engine.end_all()
        return [1, 2]

    async with (
        serve_cloud(config, loader) as server,
        welcomed(server.link_url, hello_for(bundle.manifest)) as client,
    ):
        for number in (1, 2, 3):
            await client.open(number, session_key(number), 64)
        first = loader.engine
        for number in await lose_one(client):
            rows = rows_of(await client.receive(), first.hidden_size)
            np.testing.assert_array_equal(rows, deep_rows(random_rows(4, number)))
        for number in (1, 2, 3):
            await client.expect_fault(FaultCode.INTERNAL, session=number)
        await until(lambda: loader.num_loads == 2 and not server.daemon.is_restarting)
        loader.engine.ends_at_once = True
        await assert_serves(client, 4, seed=4)
        assert sorted(engine_threads()) == ["engine", "engine-finisher"]
        assert first.broken_rules == loader.engine.broken_rules == []
        first.end_all()
    assert loader.num_closed == 2

"""Mutated and random frames against a cloud's real socket: it lives, and nobody else notices."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cloud_server.daemon.daemon import CloudDaemon
from device_runtime.generation.request import GenerationRequest
from submodels.bundle.bundle import load_bundle
from tests.support.cloud_client import QUICK, hello_for
from tests.support.event_loop import until
from tests.support.load import resident_bytes
from tests.support.mutated_frames import FrameSource
from tests.support.reference import STORIES, greedy, load_reference, story_prompts
from tests.support.stack import (
    GREEDY,
    cloud_config,
    connected_device,
    generate_ids,
    serve_cloud,
    split_for_serving,
)

pytestmark = pytest.mark.alone

NUM_SENDERS = 4
FRAMES_PER_CONNECTION = 60
MAX_GROWTH_BYTES = 32 << 20
CLOUD = {"session_ttl_s": 0.2, "max_sessions": 64, "capacity_tokens": 20_000}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_for_serving(STORIES, tmp_path_factory.mktemp("frames") / "m1", 1)


class _Received:
    """Counts the frames that senders brought to the daemon, and what it failed at."""

    def __init__(self, daemon: CloudDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_frames = 0
        self.errors: list[Exception] = []
        self.healthy_connections = {1}
        receive = daemon.receive

        def counted(number: int, frame: Any, *unpacked: Any) -> None:
            self.num_frames += number not in self.healthy_connections
            try:
                receive(number, frame, *unpacked)
            except Exception as error:
                self.errors.append(error)
                raise

        monkeypatch.setattr(daemon, "receive", counted)


async def _send_until(received: _Received, num_frames: int, url: str, source: FrameSource) -> None:
    """Connection after connection; each ends when the cloud ends it, or after a while."""
    async with aiohttp.ClientSession() as http:
        while received.num_frames < num_frames:
            async with http.ws_connect(url, compress=0, max_msg_size=0) as link:
                reading = asyncio.create_task(_read_all(link))
                with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                    await link.send_bytes(source.hello)
                    for _ in range(FRAMES_PER_CONNECTION):
                        if link.closed:
                            break
                        await link.send_bytes(source.frame)
                        await asyncio.sleep(0)
                await link.close()
                await reading


async def _read_all(link: aiohttp.ClientWebSocketResponse) -> None:
    async for _ in link:
        pass


def _cases(count: int) -> Iterator[tuple[list[int], list[int]]]:
    """Prompts and what the unsplit model says."""
    model = load_reference(STORIES)
    for prompt in story_prompts(count):
        yield prompt, list(greedy(model, prompt, 24).ids)


async def _storm(bundles: Path, num_frames: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Send so many frames beside a healthy device; the growth of memory after the first tenth."""
    cases = list(_cases(6))
    hello = hello_for(load_bundle(bundles, "cloud").manifest)
    async with serve_cloud(cloud_config(bundles, CLOUD), patience=QUICK) as cloud:
        daemon = cloud.daemon
        assert daemon is not None
        received = _Received(daemon, monkeypatch)
        async with connected_device(bundles, cloud.url, {"kept_sessions": 0}) as device:
            sources = [FrameSource(seed, hello) for seed in range(NUM_SENDERS)]

            async def send(up_to: int) -> None:
                calls = [_send_until(received, up_to, cloud.link_url, each) for each in sources]
                await asyncio.gather(*calls)

            async def check_healthy(until_done: asyncio.Task[None]) -> None:
                while not until_done.done():
                    for prompt, ids in cases:
                        wanted = GenerationRequest(prompt, 24, GREEDY, frozenset({1, 2}))
                        assert await generate_ids(device.runtime, wanted) == ids

            before = 0
            for up_to in (num_frames // 10, num_frames):
                sending = asyncio.create_task(send(up_to))
                await check_healthy(sending)
                await sending
                await until(lambda: daemon.figures().num_sessions == 0)
                before = before or resident_bytes()
            growth_bytes = resident_bytes() - before
            figures = daemon.figures()
            assert received.num_frames >= num_frames
            assert received.errors == []
            # The healthy device has never had to come back.
            assert list(daemon._connections) == list(received.healthy_connections)
            assert figures.reserved_tokens == 0
            assert not daemon.is_broken
    return growth_bytes


async def test_mutated_frames_crash_nothing_leak_nothing_and_disturb_nobody(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await _storm(bundles, 2000, monkeypatch) < MAX_GROWTH_BYTES


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
async def test_a_hundred_thousand_mutated_frames_crash_nothing_and_leak_nothing(
    bundles: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    growth_bytes = await _storm(bundles, 100_000, monkeypatch)
    record_property("growth_bytes", growth_bytes)
    assert growth_bytes < MAX_GROWTH_BYTES

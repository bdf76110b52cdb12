"""A device that fell silent is noticed by its cloud; one that only has nothing to say is not."""

import asyncio
import sys
from pathlib import Path

import pytest

from cloud_server.daemon.daemon import Patience
from submodels.bundle.bundle import load_bundle
from tests.support.broken_link import broken_link
from tests.support.cloud_client import hello_for, until, welcomed
from tests.support.fake_middle_engine import FakeMiddleEngine
from tests.support.reference import STORIES
from tests.support.stack import cloud_config, serve_cloud, split_for_serving
from wire.handshake import LINK_PATH

SILENCE_S = 1.0

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems do not tell what has come"
)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_for_serving(STORIES, tmp_path_factory.mktemp("silent") / "m1", 1)


async def test_a_silent_device_is_noticed_and_an_idle_one_is_not(bundles: Path) -> None:
    hello = hello_for(load_bundle(bundles, "cloud").manifest)
    engine = FakeMiddleEngine()
    patience = Patience(silence_s=SILENCE_S)
    async with serve_cloud(cloud_config(bundles), engine.load, patience) as cloud:
        assert cloud.daemon is not None
        figures = cloud.daemon.figures
        port = int(cloud.url.rsplit(":", 1)[1])
        async with (
            broken_link(port) as link,
            welcomed(link.url + LINK_PATH, hello) as silent,
            welcomed(cloud.link_url, hello) as idle,
        ):
            reading = [asyncio.create_task(end.receive()) for end in (silent, idle)]
            await asyncio.sleep(3 * SILENCE_S)
            assert figures().num_connections == 2
            link.cut()
            await until(lambda: figures().num_connections == 1, 4 * SILENCE_S)
            await asyncio.sleep(2 * SILENCE_S)
            assert figures().num_connections == 1
            assert not reading[1].done()
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)

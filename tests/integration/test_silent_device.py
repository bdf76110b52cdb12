"""A device that fell silent is noticed by its cloud; one that only has nothing to say is not."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloud_server.daemon.daemon import Patience
from process.sockets.memory import MemorySocket
from submodels.bundle.bundle import load_bundle
from tests.support.broken_link import broken_link
from tests.support.cloud_client import hello_for, until, welcomed
from tests.support.fake_cloud import FakeCloud
from tests.support.fake_middle_engine import FakeMiddleEngine
from tests.support.memory_cloud import MemoryCloud
from tests.support.memory_link import MemoryNetwork
from tests.support.reference import STORIES
from tests.support.stack import cloud_config, serve_cloud, split_for_serving
from wire.codec import decode, encode
from wire.handshake import LINK_PATH
from wire.messages import Welcome

SILENCE_S = 1.0
HOUR_S = 3600.0

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
            link.cut()
            await until(lambda: figures().num_connections == 1, 4 * SILENCE_S)
            await asyncio.sleep(SILENCE_S / 2)
            assert figures().num_connections == 1
            assert not reading[1].done()
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)


@asynccontextmanager
async def greeted(network: MemoryNetwork) -> AsyncIterator[MemorySocket]:
    """A device's end of a socket in memory, after the handshake."""
    async with network.dial() as end:
        await end.send(encode(FakeCloud().config().hello()))
        welcome = await end.receive()
        assert welcome is not None
        assert isinstance(decode(welcome), Welcome)
        yield end


@pytest.mark.event_loop("virtual")
async def test_a_device_behind_a_hole_is_lost_within_the_setting_and_no_idle_one_in_an_hour() -> (
    None
):
    cloud, clock = MemoryCloud(), asyncio.get_running_loop().time
    idle, holed = MemoryNetwork(cloud), MemoryNetwork(cloud)
    async with greeted(idle) as first, greeted(holed):
        await asyncio.sleep(HOUR_S)
        assert cloud.daemon.figures().num_connections == 2
        holed.is_silent, since_s = True, clock()
        # The goodbye is lost as well.
        await until(lambda: cloud.daemon.figures().num_connections == 1, HOUR_S)
        assert Patience().silence_s / 2 < clock() - since_s <= Patience().silence_s
        await asyncio.sleep(HOUR_S)
        assert cloud.daemon.figures().num_connections == 1
        await first.ping()
    await cloud.stop()

"""Signs of life over real sockets: a thin and full uplink is no dead cloud, a hole is."""

import asyncio
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from device_runtime.link.link import Link
from device_runtime.link.session import LinkLostError, LinkSession
from device_runtime.session.actions import ComputeAndSend
from tests.support.event_loop import until
from tests.support.fake_cloud import IMPATIENT, FakeCloud
from tests.support.fake_model import shallow_rows
from tests.support.thin_link import thin_link
from tests.support.world import REAL
from wire.messages import Dtype, Want
from wire.numbers import pack_rows

SILENCE_S = 2.0
"""Well above what a busy machine holds a process up for."""

NUM_ROWS = 4096
CHUNK_BYTES = NUM_ROWS * 16
THIN_BYTES_PER_S = CHUNK_BYTES / (1.25 * SILENCE_S)
"""The relay holds some 15 KB that it has acknowledged: 0.6 s, in which no ping is answered."""

NO_BYTES_PER_S = 0.001

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform != "linux", reason="others do not tell what has arrived"),
]


async def send(session: LinkSession, position: int) -> None:
    payload = pack_rows(shallow_rows([1] * NUM_ROWS, position), Dtype.FP32)
    action = ComputeAndSend(1, position, (1,) * NUM_ROWS, Want.LAST)
    await session.send(action, payload)


@asynccontextmanager
async def linked_over(bytes_per_s):
    """A link to a cloud behind an uplink of such a rate, and the uplink."""
    cloud = FakeCloud(window_tokens=8 * NUM_ROWS, max_frame_tokens=NUM_ROWS)
    await cloud.start()
    async with thin_link(cloud.port, bytes_per_s) as uplink:
        patience = replace(IMPATIENT, heartbeat_s=SILENCE_S)
        link = Link(cloud.config(url=uplink.url, patience=patience), REAL.clock, REAL.randomness)
        link.start()
        try:
            async with asyncio.timeout(30.0):
                await link.connected()
                yield link, uplink
        finally:
            await link.close()
            await cloud.stop()


async def test_a_chunk_that_takes_longer_than_the_silence_that_is_borne_loses_no_link():
    async with linked_over(THIN_BYTES_PER_S) as (link, _):
        session = link.open(8 * NUM_ROWS)
        started_s = time.monotonic()
        for index in range(2):
            await send(session, index * NUM_ROWS)
        for _ in range(2):
            await session.reply()
        assert time.monotonic() - started_s > 2 * SILENCE_S
        assert link.num_connections == 1


async def test_a_hole_on_the_way_up_is_noticed_in_time_whatever_waits_before_it():
    async with linked_over(1e6) as (link, uplink):
        session = link.open(8 * NUM_ROWS)
        await session.opened()
        await send(session, 0)
        uplink.bytes_per_s = NO_BYTES_PER_S
        started_s = time.monotonic()
        await until(lambda: not link.status.is_connected)
        assert time.monotonic() - started_s < 4 * SILENCE_S, "more than once, on a busy machine"
        assert f"nothing came from it for {SILENCE_S:g} s" in (link.status.reason or "")
        with pytest.raises(LinkLostError):
            await session.reply()

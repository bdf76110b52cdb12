import asyncio
import shutil
import ssl
from dataclasses import replace

import numpy as np
import pytest
from aiohttp import web

from device_runtime.generation.request import CloudUnavailableError
from device_runtime.link.link import Link
from device_runtime.link.session import SessionRefusedError, SessionSilentError
from device_runtime.session.actions import ComputeAndSend
from tests.support.event_loop import on_sockets_and_in_memory, settle, until
from tests.support.fake_cloud import IMPATIENT, SECRET, FakeCloud, fault, running
from tests.support.fake_model import shallow_rows
from tests.support.guarded import make_certificate
from tests.support.world import REAL
from wire.codec import REPLY, STATES, encode
from wire.errors import FaultCode
from wire.handshake import LINK_PATH
from wire.messages import Dtype, Opened, SessionId, Want
from wire.numbers import pack_rows, unpack_rows

pytestmark = pytest.mark.event_loop("virtual")


def rows(token_ids, position=0, want=Want.LAST, is_verify=False, epoch=1):
    payload = pack_rows(shallow_rows(token_ids, position), Dtype.FP32)
    return ComputeAndSend(epoch, position, tuple(token_ids), want, is_verify), payload


@on_sockets_and_in_memory
async def test_rows_go_up_and_deep_rows_come_back():
    cloud = FakeCloud()
    async with running(cloud) as link:
        await link.connected()
        session = link.open(max_tokens=10)
        assert await session.opened() == 0
        await session.send(*rows([3, 4], want=Want.ALL))
        reply = await session.reply()
        assert (reply.epoch, reply.position, reply.num_rows) == (1, 0, 2)
        deep = unpack_rows(reply.payload, 2, 4, reply.dtype)
        np.testing.assert_array_equal(deep[:, 0], next(iter(cloud.live.values())).states)
        assert session.carried.up == STATES.size + 2 * 4 * 4
        assert session.carried.down == REPLY.size + 2 * 4 * 4
        session.close()
        await cloud.emptied()


async def test_a_higher_epoch_ends_the_frames_of_older_ones_sent_or_not():  # W18, W25
    cloud = FakeCloud()
    async with running(cloud) as link:
        await link.connected()
        session = link.open(max_tokens=10)
        await session.send(*rows([3, 4], want=Want.ALL))
        await session.reply()
        # One more reply than is taken has come, one is on its way, and a frame is not written yet.
        await session.send(*rows([5], 2, Want.ALL, is_verify=True))
        await until(lambda: session.num_waiting_replies == 1)
        cloud.going.clear()
        await session.send(*rows([6], 3, Want.ALL, is_verify=True))
        await until(lambda: session._num_queued == 0)
        await session.send(*rows([7], 4, Want.ALL, is_verify=True))
        num_frames = len(cloud.frames)
        await session.send(*rows([8], 2, Want.ALL, is_verify=True, epoch=2))
        assert session.num_waiting_replies == 0
        cloud.going.set()
        reply = await session.reply()
        assert (reply.epoch, reply.position) == (2, 2)
        assert session.num_waiting_replies == 0
        assert session.is_live
        assert session._num_queued == 0
        positions = [frame.position for frame in cloud.frames[num_frames:]]
        assert positions == [3, 2], "what was not written was not sent"


async def test_a_session_forked_from_another_begins_with_its_tokens():
    async with running(FakeCloud()) as link:
        await link.connected()
        first = link.open(max_tokens=10)
        await first.send(*rows([3, 4, 5]))
        await first.reply()
        assert await link.open(10, fork_of=first, fork_tokens=2).opened() == 2


@pytest.mark.event_loop("asyncio")
@pytest.mark.parametrize(
    ("mood", "changes", "reason"),
    [
        ({"secret": b"another"}, {}, "refused this device's secret.*the same secret"),
        ({"fingerprint": bytes(32)}, {}, "holds other middle layers.*one and the same split"),
        ({"refuse_connection": fault(FaultCode.DRAINING)}, {}, "is shutting down"),
        ({}, {"url": "ws://127.0.0.1:{port}/nothing"}, "answers HTTP 404.*is it a hat cloud"),
    ],
)
async def test_a_refusal_is_told_with_its_reason_and_healed_when_the_cause_is_gone(
    mood, changes, reason
):
    def heal(cloud):
        right = FakeCloud()
        cloud.secret, cloud.fingerprint = right.secret, right.fingerprint
        cloud.refuse_connection = None

    cloud = FakeCloud(**mood)
    await cloud.start()
    changed = {key: value.format(port=cloud.port) for key, value in changes.items()}
    link = Link(cloud.config(**changed), REAL.clock, REAL.randomness)
    link.start()
    try:
        await until(lambda: "connecting" not in (link.status.reason or ""))
        assert not link.status.is_connected
        with pytest.raises(CloudUnavailableError, match=reason) as caught:
            link.open(max_tokens=10)
        assert caught.value.retry_after_s >= 1.0
        assert SECRET.decode() not in caught.value.reason
        if not changes:
            heal(cloud)
            async with asyncio.timeout(10):
                await link.connected()
    finally:
        await link.close()
        await cloud.stop()


@on_sockets_and_in_memory
async def test_an_absent_cloud_is_told_and_found_when_it_comes():
    cloud = FakeCloud()
    async with running(cloud) as link:
        await link.connected()
        await cloud.stop()
        await until(lambda: "cannot reach" in (link.status.reason or ""))
        assert "is it running there?" in link.status.reason
        with pytest.raises(CloudUnavailableError, match="cannot reach"):
            link.open(10)
        await cloud.start()
        async with asyncio.timeout(10):
            await link.connected()
        assert await link.open(10).opened() == 0
        assert link.num_connections == 2


async def test_a_lost_socket_fails_the_sessions_that_wait_and_later_ones_work():
    cloud = FakeCloud()
    async with running(cloud) as link:
        await link.connected()
        sessions = [link.open(10) for _ in range(3)]
        for session in sessions:
            await session.opened()
        waiting = [asyncio.ensure_future(session.reply()) for session in sessions]
        await asyncio.sleep(0)
        cloud.vanish()
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, CloudUnavailableError)
            assert "lost the cloud" in result.reason
        assert not any(session.is_live for session in sessions)
        for session in sessions:
            session.close()
        await link.connected()
        assert await link.open(10).opened() == 0


async def test_a_session_fault_ends_that_session_alone():
    cloud = FakeCloud(refuse_open=[fault(FaultCode.CAPACITY, 7.0, "no room")])
    async with running(cloud) as link:
        await link.connected()
        refused, welcome = link.open(10), link.open(10)
        with pytest.raises(SessionRefusedError, match="CAPACITY: no room") as caught:
            await refused.opened()
        assert caught.value.retry_after_s == 7.0
        assert caught.value.code is FaultCode.CAPACITY
        assert await welcome.opened() == 0
        refused.close()
        assert link.status.is_connected


async def test_rows_wait_for_credit_and_a_verification_goes_before_the_chunks_that_wait():
    cloud = FakeCloud(window_tokens=16, max_frame_tokens=8)
    async with running(cloud) as link:
        await link.connected()
        assert link.limits.max_frame_tokens == 8
        sessions = [link.open(30) for _ in range(4)]
        for session in sessions:
            await session.opened()
        cloud.going.clear()
        for session in sessions[:3]:
            await session.send(*rows(range(8), want=Want.NONE))
        await until(lambda: sessions[0].carried.up > 0)
        await sessions[3].send(*rows([1, 2], is_verify=True))
        await until(lambda: sessions[3].carried.up > 0)
        assert sessions[1].carried.up == sessions[2].carried.up == 0
        cloud.going.set()
        await asyncio.gather(*(session.reply() for session in sessions))
        assert [frame.num_rows for frame in cloud.frames] == [8, 2, 8, 8]


async def test_a_session_that_has_too_much_waiting_waits_itself():
    cloud = FakeCloud(window_tokens=4, max_frame_tokens=4)
    async with running(cloud) as link:
        await link.connected()
        session = link.open(30)
        await session.opened()
        cloud.going.clear()
        await session.send(*rows([1, 2], position=0))
        await session.send(*rows([3, 4], position=2))
        await session.send(*rows([5, 6], position=4))
        third = asyncio.ensure_future(session.send(*rows([7, 8], position=6)))
        await settle()
        assert not third.done()
        cloud.going.set()
        await third
        positions = [(await session.reply()).position for _ in range(4)]
        assert positions == [0, 2, 4, 6]


@pytest.mark.event_loop("asyncio")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_a_wss_cloud_is_trusted_with_its_own_ca_and_not_without(tmp_path):
    certificate, key = make_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)

    cloud = FakeCloud(tls=tls)
    await cloud.start()
    url = f"wss://127.0.0.1:{cloud.port}"
    trusting, doubting = (
        Link(cloud.config(url=url, ca_file=certificate), REAL.clock, REAL.randomness),
        Link(cloud.config(url=url), REAL.clock, REAL.randomness),
    )
    for link in (trusting, doubting):
        link.start()
    try:
        await trusting.connected()
        assert await trusting.open(10).opened() == 0
        await until(lambda: "does not trust" in (doubting.status.reason or ""))
    finally:
        await trusting.close()
        await doubting.close()
        await cloud.stop()


@pytest.mark.event_loop("asyncio")
@pytest.mark.parametrize("answer", ["text", "nonsense", "opened first", "silence"])
async def test_something_that_is_no_cloud_is_told_as_such(answer):
    async def serve(request):
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.receive()
        match answer:
            case "text":
                await ws.send_str("hello")
            case "nonsense":
                await ws.send_bytes(b"\xff\x00")
            case "opened first":
                await ws.send_bytes(encode(Opened(SessionId(1), 0)))
        await ws.receive()
        return ws

    cloud = FakeCloud()
    app = web.Application()
    app.router.add_get(LINK_PATH, serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    cloud.port = runner.addresses[0][1]
    link = Link(
        cloud.config(patience=replace(IMPATIENT, connect_s=0.05)), REAL.clock, REAL.randomness
    )
    link.start()
    try:
        words = "does not answer" if answer == "silence" else "broke the protocol"
        await until(lambda: words in (link.status.reason or ""))
    finally:
        await link.close()
        await runner.cleanup()


async def test_a_session_of_which_nothing_is_heard_is_told_apart_from_a_lost_link():
    cloud = FakeCloud()
    async with running(cloud) as link:
        await link.connected()
        session = link.open(10)
        await session.opened()
        cloud.going.clear()
        await session.send(*rows([1]))
        with pytest.raises(SessionSilentError, match="did not answer within 60 s"):
            await session.reply()
        # The first silence may have been a slow cloud's.
        with pytest.raises(SessionSilentError, match="did not answer within 120 s"):
            await link.open(10).opened()
        assert link.num_connections == 1, "pings were answered all the while"
        cloud.going.set()


async def test_a_reply_to_nothing_ends_the_connection():
    cloud = FakeCloud(unasked_reply=True)
    async with running(cloud) as link:
        await link.connected()
        session = link.open(10)
        await until(lambda: not session.is_live)
        with pytest.raises(CloudUnavailableError, match=r"broke the protocol.*no reply"):
            await session.reply()

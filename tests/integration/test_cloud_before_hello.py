"""What a peer of a cloud may take before it has shown the secret, over real sockets."""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_server import server as cloud_server
from cloud_server.server import CloudServer
from tests.support.cloud_client import (
    QUICK,
    assert_serves,
    connected,
    hello_for,
    http_get,
    session_key,
    until,
    welcomed,
)
from tests.support.event_loop import on_both_loops
from tests.support.guarded import read_all
from tests.support.world import serve_cloud
from wire.codec import encode
from wire.errors import FaultCode
from wire.limits import MAX_HANDSHAKE_BYTES
from wire.messages import Close, Open, SessionId

HELLO_S = 10.0
SECRET = "the-secret-of-this-cloud"
UPGRADE = (
    b"GET /v1/link HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def _frame(length: int, first: int = 0x82) -> bytes:
    """The header of a masked frame of this length."""
    return struct.pack(">BBQ", first, 0xFF, length) + bytes(4)


def _port(server: CloudServer) -> int:
    return int(server.url.rpartition(":")[2])


@asynccontextmanager
async def _raw(server: CloudServer, data: bytes = UPGRADE, upgraded: bool = True):
    reader, writer = await asyncio.open_connection("127.0.0.1", _port(server))
    writer.write(data)
    if upgraded:
        await reader.readuntil(b"\r\n\r\n")
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def guarded_config(config):
    return replace(config, secret=SECRET)


@on_both_loops
@pytest.mark.parametrize(
    "frames",
    [
        _frame(260_000),
        _frame(MAX_HANDSHAKE_BYTES + 1),
        _frame(0, first=0x02) + _frame(1000, first=0x00) + bytes(1000) + _frame(1500, first=0x80),
        b"\x89\xfd\0\0\0\0" + bytes(125) + (b"\x89\xfd\0\0\0\0" + bytes(125)) * 60,
        _frame(1 << 62),
    ],
)
async def test_a_large_frame_before_hello_is_refused_by_its_length(guarded_config, engine, frames):
    async with (
        serve_cloud(guarded_config, engine.load) as server,
        _raw(server) as (reader, writer),
    ):
        writer.write(frames)
        async with asyncio.timeout(5):
            answer = await read_all(reader)
        fault = FaultCode.BAD_FRAME.value.to_bytes(2, "little")
        assert fault in answer


async def test_bytes_of_a_large_frame_before_hello_are_not_held(guarded_config, engine):
    async with serve_cloud(guarded_config, engine.load) as server:
        before = _resident_bytes()
        head = _frame(260_000)
        sockets = []
        for _ in range(300):
            made = socket.create_connection(("127.0.0.1", _port(server)))
            made.setblocking(False)
            made.sendall(UPGRADE + head)
            sockets.append(made)
            await asyncio.sleep(0.001)
        for _ in range(10):
            for made in sockets:
                with contextlib.suppress(OSError):
                    made.send(b"x" * 25_000)
            await asyncio.sleep(0.02)
        assert _resident_bytes() - before < 40 << 20
        for made in sockets:
            made.close()


@on_both_loops
async def test_what_is_sent_behind_a_hello_waits_for_the_welcome(guarded_config, bundle, engine):
    hello = hello_for(bundle.manifest, SECRET)

    def masked(payload: bytes) -> bytes:
        return struct.pack(">BBH", 0x82, 0xFE, len(payload)) + bytes(4) + payload

    async with serve_cloud(guarded_config, engine.load) as server:
        behind = masked(encode(Open(SessionId(1), session_key(1), 64)))
        for pieces in ([masked(encode(hello)) + behind], [masked(encode(hello)), behind]):
            async with _raw(server) as (reader, writer):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                async with asyncio.timeout(5):
                    welcome = await reader.readexactly(2)
                    await reader.readexactly(welcome[1])
                    opened = await reader.readexactly(2)
                    await reader.readexactly(opened[1])


@pytest.mark.parametrize("data", [b"", UPGRADE[:60], UPGRADE, UPGRADE + _frame(100)])
async def test_a_device_gets_in_past_sockets_that_say_nothing(guarded_config, bundle, engine, data):
    few = replace(guarded_config, max_sockets=16, max_sockets_per_address=12, max_connections=4)

    async with serve_cloud(few, engine.load) as server:
        silent = []
        for _ in range(40):
            reader, writer = await asyncio.open_connection("127.0.0.1", _port(server))
            writer.write(data)
            silent.append((reader, writer))
        await asyncio.sleep(0.5)
        assert 8 <= len(server.reception.guard.door) <= 12
        hello = hello_for(bundle.manifest, SECRET)
        async with welcomed(server.link_url, hello) as first:
            for seed in range(3):
                async with welcomed(server.link_url, hello) as device:
                    await assert_serves(device, 1, seed)
            for _, writer in silent:
                writer.transport.abort()
            again = [await asyncio.open_connection("127.0.0.1", _port(server)) for _ in range(40)]
            # Who has been welcomed makes room for nobody.
            await assert_serves(first, 1, seed=9)
            status, _ = await http_get(server.http_url + "/health")
            assert status == 200
            for _, writer in again:
                writer.transport.abort()


async def test_the_time_for_a_hello_counts_from_accept(guarded_config, engine):
    """The daemon's clock stands still where it is too late from accept and early from upgrade."""
    real_clock = asyncio.get_running_loop().time
    stands_at_s = None

    def clock() -> float:
        return real_clock() if stands_at_s is None else stands_at_s

    async with cloud_server.serve_cloud(guarded_config, clock, engine.load, QUICK) as server:
        begun_s = real_clock()
        async with _raw(server, UPGRADE[:-2], upgraded=False) as (reader, writer):
            await asyncio.sleep(1.0)
            stands_at_s = begun_s + HELLO_S + 0.5
            writer.write(UPGRADE[-2:])
            async with asyncio.timeout(5):
                answer = await read_all(reader)
            assert FaultCode.DEADLINE_EXCEEDED.value.to_bytes(2, "little") in answer


async def test_wrong_secrets_cost_time_and_a_right_one_behind_the_same_address_none(
    guarded_config, bundle, engine
):
    async with serve_cloud(guarded_config, engine.load) as server:
        clock = asyncio.get_running_loop().time
        wrong = hello_for(bundle.manifest, "another-secret")
        begun_s = clock()
        for _ in range(4):
            async with connected(server.link_url) as client:
                await client.send(wrong)
                await client.expect_fault(FaultCode.BAD_CREDENTIAL)
        assert clock() - begun_s > 0.1 + 0.2 + 0.4
        delays: list[float] = []
        ask = server.reception.wrong_secrets.delay_s
        # The next wrong one would wait 0.8 s.
        server.reception.wrong_secrets.delay_s = lambda *at: delays.append(ask(*at)) or 0.0
        async with welcomed(server.link_url, hello_for(bundle.manifest, SECRET)) as device:
            await assert_serves(device, 1, seed=1)
        assert delays == []


async def test_who_comes_leaves_and_is_refused_is_in_the_log_with_its_address(
    guarded_config, bundle, engine, caplog
):
    caplog.set_level(logging.INFO)

    async with serve_cloud(guarded_config, engine.load) as server:
        async with welcomed(server.link_url, hello_for(bundle.manifest, SECRET)):
            pass
        async with connected(server.link_url) as client:
            await client.send(hello_for(bundle.manifest, "another-secret"))
            await client.expect_fault(FaultCode.BAD_CREDENTIAL)
        await until(lambda: "left" in caplog.text)
    assert "connection 1: a device at 127.0.0.1" in caplog.text
    assert "connection 1: the device at 127.0.0.1 left" in caplog.text
    assert caplog.text.count("refused 127.0.0.1: BAD_CREDENTIAL") == 1
    assert "secret" not in caplog.text.replace("expected the shared secret", "")


@on_both_loops
@pytest.mark.parametrize("data", [UPGRADE, UPGRADE + b"\x81\x81\0\0\0\0a", UPGRADE[:50]])
@pytest.mark.parametrize("resets", [True, False])
async def test_a_flood_of_refusals_gives_few_lines_and_no_traceback(
    guarded_config, engine, caplog, data, resets
):
    caplog.set_level(logging.DEBUG)

    def attack(port: int) -> None:
        for _ in range(200):
            made = socket.create_connection(("127.0.0.1", port))
            if resets:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            made.sendall(data)
            made.close()

    async with serve_cloud(guarded_config, engine.load) as server:
        await asyncio.to_thread(attack, _port(server))
        # Accepted after all of these.
        assert (await http_get(server.http_url + "/health"))[0] == 200
        await until(lambda: len(server.reception.guard.door) == 0)
    lines = [record for record in caplog.records if record.name.startswith("cloud_server")]
    assert len([each for each in lines if "refused" in each.getMessage()]) < 40
    assert not any(record.exc_info for record in caplog.records)
    assert not any(record.levelno >= logging.WARNING for record in caplog.records)


async def test_devices_behind_a_trusted_proxy_are_counted_by_the_address_it_forwards(
    guarded_config, bundle, engine
):
    def upgrade_for(client: str) -> bytes:
        return UPGRADE.replace(b"Host: x", f"Host: x\r\nX-Forwarded-For: {client}".encode())

    async def counted(server: CloudServer, data: bytes, address: str) -> int:
        door = server.reception.guard.door
        await until(lambda: len(door) == 0)
        async with _raw(server, data):
            assert len(door) == 1
            return door.num_of(address)

    trusting = replace(guarded_config, trusted_proxies=("127.0.0.0/8",))
    async with serve_cloud(trusting, engine.load) as server:
        assert await counted(server, upgrade_for("6.6.6.6, 203.0.113.7"), "203.0.113.7")
        assert await counted(server, upgrade_for("2001:db8::1"), "2001:db8::/64")
        assert await counted(server, upgrade_for("no address"), "127.0.0.1")
    async with serve_cloud(guarded_config, engine.load) as server:
        assert await counted(server, upgrade_for("203.0.113.7"), "127.0.0.1")


async def test_a_flood_of_frames_lets_others_in(guarded_config, bundle, engine):
    hello = hello_for(bundle.manifest, SECRET)

    async with (
        serve_cloud(guarded_config, engine.load) as server,
        welcomed(server.link_url, hello) as flooding,
    ):
        daemon = server.daemon
        assert daemon is not None
        received: list[int] = []
        take = daemon.receive

        def receive(number, frame, *more):
            received.append(len(frame))
            take(number, frame, *more)

        daemon.receive = receive
        turns = 0
        frame = encode(Close(SessionId(7)))
        for _ in range(2000):
            flooding.socket._writer.transport.write(
                struct.pack(">BB", 0x82, 0x80 | len(frame)) + bytes(4) + frame
            )
        most = 0
        while len(received) < 2000:
            before = len(received)
            await asyncio.sleep(0)
            most = max(most, len(received) - before)
            turns += 1
        assert most <= 64


@pytest.mark.parametrize("origin", ["http://page.example", "null"])
async def test_no_web_page_gets_a_link(origin, config, bundle, engine, caplog):
    """Browsers let any page open a WebSocket to this machine, where a cloud may ask for nothing."""
    caplog.set_level(logging.INFO)
    async with serve_cloud(config, engine.load) as server:
        page = UPGRADE.replace(b"Host: x", f"Host: x\r\nOrigin: {origin}".encode())
        async with _raw(server, page, upgraded=False) as (reader, _):
            assert (await reader.readline()).startswith(b"HTTP/1.1 403 ")
        await until(lambda: "403, a web page asked for a link" in caplog.text)
        async with connected(server.link_url) as client:
            await client.shake_hands(hello_for(bundle.manifest))

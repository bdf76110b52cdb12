"""How a link is opened over real sockets: certificates, proxies, and whoever never answers."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from device_runtime.link.link import Link
from device_runtime.link.proxies import Proxy, proxy_for
from tests.support.certificates import HAS_OPENSSL, Authority
from tests.support.connect_proxy import ConnectProxy
from tests.support.event_loop import until
from tests.support.fake_cloud import IMPATIENT, FakeCloud
from tests.support.world import REAL

QUICK = replace(IMPATIENT, connect_s=0.5)

needs_openssl = pytest.mark.skipif(not HAS_OPENSSL, reason="openssl makes the certificates")


@contextlib.asynccontextmanager
async def link_to(cloud: FakeCloud, **changes: object) -> AsyncIterator[Link]:
    """A link, not yet connected."""
    link = Link(cloud.config(**changes), REAL.clock, REAL.randomness)
    link.start()
    try:
        yield link
    finally:
        await link.close()


async def told(link: Link, words: str) -> None:
    """Wait until the link says so."""
    await until(lambda: words in (link.status.reason or ""))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@needs_openssl
@pytest.mark.parametrize(
    ("kind", "names", "words", "may_name_ca"),
    [
        ("expired", "IP:127.0.0.1", "has expired", False),
        ("early", "IP:127.0.0.1", "not valid yet", False),
        ("good", "DNS:other.example", "for another", False),
    ],
)
async def test_a_certificate_that_does_not_do_is_named_for_what_it_is(
    authority: Authority, kind: str, names: str, words: str, may_name_ca: bool
) -> None:
    tls = authority.server(kind, names)
    if tls is None:
        pytest.skip("this openssl makes no such certificate")

    cloud = FakeCloud(tls=tls)
    await cloud.start()
    url = f"wss://127.0.0.1:{cloud.port}"
    async with link_to(cloud, url=url, ca_file=authority.ca) as link:
        await told(link, words)
        assert ("--cloud-ca" in (link.status.reason or "")) is may_name_ca
    await cloud.stop()


@needs_openssl
async def test_tls_is_recognised_where_the_address_has_none(authority: Authority) -> None:
    cloud = FakeCloud(tls=authority.server("good", "IP:127.0.0.1"))
    await cloud.start()
    async with link_to(cloud) as link:
        await told(link, "speaks TLS; use wss:// instead of ws://")
    await cloud.stop()


@contextlib.asynccontextmanager
async def proxied(cloud: FakeCloud) -> AsyncIterator[tuple[ConnectProxy, Proxy]]:
    """A cloud, a proxy in front of it, and how the environment names that."""
    await cloud.start()
    async with ConnectProxy(cloud.port).running() as server:
        value = f"http://me:hunter2@127.0.0.1:{server.port}"
        proxy = proxy_for("wss://cloud.example", {"ALL_PROXY": value})
        assert proxy is not None
        yield server, proxy
    await cloud.stop()


@pytest.mark.parametrize("scheme", ["ws", pytest.param("wss", marks=needs_openssl)])
async def test_a_tunnel_carries_links_of_both_kinds(
    authority: Authority, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The proxy finds the cloud's host; this device does not know its name."""
    caplog.set_level(logging.DEBUG)
    tls = authority.server("good", "DNS:cloud.example") if scheme == "wss" else None
    ca_file: Path | None = authority.ca if tls else None

    cloud = FakeCloud(tls=tls)
    async with proxied(cloud) as (server, proxy):
        url = f"{scheme}://cloud.example:7700"
        async with link_to(cloud, url=url, proxy=proxy, ca_file=ca_file) as link:
            await link.connected()
            assert await link.open(10).opened() == 0
        head = server.asked[0].splitlines()
        assert head[0] == "CONNECT cloud.example:7700 HTTP/1.1"
        assert "Proxy-Authorization: Basic bWU6aHVudGVyMg==" in head
    assert "hunter2" not in caplog.text
    assert "bWU6" not in caplog.text


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "wants a name and a password"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "gave no tunnel to the cloud, HTTP 403"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "gave no tunnel to the cloud, HTTP 502"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "does not answer as an HTTP proxy does"),
        (b"", "does not answer as an HTTP proxy does"),
        (b"\x00" * 20_000, "does not answer as an HTTP proxy does"),
    ],
)
async def test_a_proxy_that_gives_no_tunnel_is_told_as_such(answer: bytes, words: str) -> None:
    cloud = FakeCloud()
    async with proxied(cloud) as (server, proxy):
        server.answer = answer
        url = "ws://cloud.example:7700"
        async with link_to(cloud, url=url, proxy=proxy) as link:
            await told(link, words)
            assert f"127.0.0.1:{server.port}" in (link.status.reason or "")
            assert "hunter2" not in (link.status.reason or "")
            server.answer = None
            await link.connected()


async def test_a_proxy_that_is_not_there_or_silent_is_told_and_tried_again() -> None:
    cloud = FakeCloud()
    async with proxied(cloud) as (server, proxy):
        changes = {"url": "ws://cloud.example:7700", "patience": QUICK}
        gone = replace(proxy, port=1)
        async with link_to(cloud, proxy=gone, **changes) as link:
            await told(link, "the proxy at 127.0.0.1:1 cannot be reached")
        server.is_silent = True
        async with link_to(cloud, proxy=proxy, **changes) as link:
            await told(link, "does not answer")
            server.is_silent = False
            await link.connected()


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 101 Switching Protocols\r\n"])
async def test_whoever_takes_the_connection_and_never_answers_is_left_for_another_try(
    scheme: str, says: bytes
) -> None:
    """A wedged cloud, half a balancer, a path that died after the first packets."""
    num_asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_asked
        num_asked += 1
        writer.write(says)
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    cloud = FakeCloud(port=server.sockets[0].getsockname()[1])
    url = f"{scheme}://127.0.0.1:{cloud.port}"
    async with link_to(cloud, url=url, patience=replace(QUICK, connect_s=0.1)) as link:
        await until(lambda: num_asked >= 3)
        if scheme == "ws":
            assert "does not answer" in (link.status.reason or "")
            server.close()
            await cloud.start()
            async with asyncio.timeout(10.0):
                await link.connected()
            await cloud.stop()
    server.close()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_the_secret_is_not_shown_to_whom_an_answer_points_at(status: int) -> None:
    other = FakeCloud()
    await other.start()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        where = f"http://127.0.0.1:{other.port}/v1/link"
        answer = f"HTTP/1.1 {status} Elsewhere\r\nLocation: {where}\r\nContent-Length: 0"
        writer.write(f"{answer}\r\n\r\n".encode())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    cloud = FakeCloud(port=server.sockets[0].getsockname()[1])
    async with link_to(cloud, patience=QUICK) as link:
        await told(link, f"answers HTTP {status} instead of opening a link")
        assert not link.num_connections
    server.close()
    await other.stop()


@pytest.mark.parametrize(
    "says", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b"+OK ready\r\n"]
)
async def test_what_speaks_another_language_is_told_as_such(says: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        await writer.drain()
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    cloud = FakeCloud(port=server.sockets[0].getsockname()[1])
    async with link_to(cloud, patience=QUICK) as link:
        await told(link, "does not answer as a WebSocket does; is it a hat cloud?")
    server.close()

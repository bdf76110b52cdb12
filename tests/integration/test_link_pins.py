"""A device that knows its cloud by the pin of its key. openssl makes keys, and a server."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from device_runtime.config import DeviceConfig
from device_runtime.fetching.cloud_files import CloudFiles
from device_runtime.fetching.source import make_fetcher
from device_runtime.link.dialing import Dialer
from device_runtime.link.proxies import proxy_for
from process.tls.certificates import pin_of_pem
from tests.integration.test_link_opening import link_to, told
from tests.support.certificates import Authority
from tests.support.connect_proxy import ConnectProxy
from tests.support.event_loop import until
from tests.support.fake_cloud import FakeCloud
from tests.support.guarded import make_certificate
from tests.support.world import REAL

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the keys")

LOOPS = [pytest.mark.event_loop(name) for name in ("asyncio", "uvloop")]

OTHER = "sha256/" + "A" * 43 + "="


@dataclass(frozen=True)
class Identity:
    """A key with a certificate of its own."""

    certificate: Path
    key: Path

    @property
    def pin(self) -> str:
        return pin_of_pem(self.certificate.read_bytes())

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass
class Listener:
    """Shakes hands and keeps what comes then; `context` is that of its next connection."""

    context: ssl.SSLContext
    port: int = 0
    heard: list[bytes] = field(default_factory=list)
    num_ended: int = 0

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await writer.start_tls(self.context)
            self.heard.append(await reader.read(1 << 16))
        except (OSError, EOFError):
            pass
        finally:
            self.num_ended += 1
            writer.close()


@contextlib.asynccontextmanager
async def listening(identity: Identity) -> AsyncIterator[Listener]:
    listener = Listener(identity.context())
    server = await asyncio.start_server(listener.meet, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    try:
        yield listener
    finally:
        server.close()


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> list[Identity]:
    return [Identity(*make_certificate(tmp_path_factory.mktemp("key"))) for _ in range(2)]


@pytest.mark.parametrize("_", [pytest.param(0, marks=each) for each in LOOPS])
async def test_a_cloud_is_known_by_its_key_whatever_else_its_certificate_says(
    tmp_path: Path, _: int
) -> None:
    """For another host, and expired."""
    authority = Authority(tmp_path)
    tls = authority.server("expired", "DNS:other.example")
    if tls is None:
        pytest.skip("this openssl makes no such certificate")
    pin = pin_of_pem((tmp_path / "expired.pem").read_bytes())
    cloud = FakeCloud(tls=tls)
    await cloud.start()
    url = f"wss://127.0.0.1:{cloud.port}"
    async with link_to(cloud, url=url, pins=(OTHER, pin)) as link:
        await link.connected()
        assert await link.open(10).opened() == 0
    async with link_to(cloud, url=url, pins=(pin,), ca_file=authority.ca) as link:
        await told(link, "shows a certificate")
    await cloud.stop()


async def test_another_key_is_told_with_its_pin_before_anything_is_sent(
    identities: list[Identity],
) -> None:
    right, wrong = identities
    async with listening(wrong) as listener:
        cloud = FakeCloud(port=listener.port)
        url = f"wss://127.0.0.1:{cloud.port}"
        async with link_to(cloud, url=url, pins=(right.pin,)) as link:
            await told(link, "which is not that of --cloud-pin")
            assert wrong.pin in (link.status.reason or "")
            await until(lambda: listener.num_ended >= 1)
        assert b"".join(listener.heard) == b""


async def test_each_connection_looks_at_the_key_anew(identities: list[Identity]) -> None:
    """As further sockets of a link are opened: by the same `Dialer`."""
    right, wrong = identities
    cloud = FakeCloud(tls=right.context())
    await cloud.start()
    dial = Dialer(cloud.config(url=f"wss://127.0.0.1:{cloud.port}", pins=(right.pin,)))
    async with dial() as socket:
        await socket.close()
    cloud.tls = wrong.context()
    await cloud.stop()
    await cloud.start()
    with pytest.raises(aiohttp.ClientConnectorCertificateError) as refused:
        async with dial():
            pass
    assert refused.value.certificate_error.found == wrong.pin
    await cloud.stop()


async def test_a_proxys_tunnel_ends_at_the_pinned_key_or_is_not_used(
    identities: list[Identity],
) -> None:
    right, wrong = identities
    url = "wss://cloud.example:7700"
    for shown, words in ((right, None), (wrong, "which is not that of --cloud-pin")):
        cloud = FakeCloud(tls=shown.context())
        await cloud.start()
        async with ConnectProxy(cloud.port).running() as server:
            proxy = proxy_for(url, {"ALL_PROXY": f"http://127.0.0.1:{server.port}"})
            async with link_to(cloud, url=url, proxy=proxy, pins=(right.pin,)) as link:
                await (link.connected() if words is None else told(link, words))
        await cloud.stop()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssls_own_server_is_known_and_another_is_not(
    identities: list[Identity], version: str
) -> None:
    """It answers as no WebSocket does, which is what is told once its key was right."""
    right, wrong = identities
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", version, "-www", "-quiet"]
    command += ["-cert", str(right.certificate), "-key", str(right.key)]
    quiet = subprocess.DEVNULL
    server = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)
    try:
        cloud = FakeCloud(port=port)
        url = f"wss://127.0.0.1:{port}"
        async with link_to(cloud, url=url, pins=(right.pin,)) as link:
            await told(link, "instead of opening a link")
        async with link_to(cloud, url=url, pins=(wrong.pin,)) as link:
            await told(link, f"has the key {right.pin}, which is not")
    finally:
        server.kill()
        await server.wait()


async def test_a_bundle_is_asked_for_where_the_key_is_right_and_nowhere_else(
    identities: list[Identity],
) -> None:
    right, wrong = identities
    for shown in identities:
        async with listening(shown) as listener:
            url = f"wss://127.0.0.1:{listener.port}"
            config = DeviceConfig(None, cloud=url, secret="s" * 20, cloud_pin=(right.pin,))
            async with CloudFiles(make_fetcher(config, REAL)._address) as files:
                with pytest.raises(aiohttp.ClientError) as refused:
                    await files.manifest()
            await until(lambda: listener.num_ended >= 1)
            assert (b"s" * 20 in b"".join(listener.heard)) == (shown is right)
            is_certificate = isinstance(refused.value, aiohttp.ClientConnectorCertificateError)
            assert is_certificate == (shown is wrong)

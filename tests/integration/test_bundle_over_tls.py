"""A bundle is fetched as the link is reached: by the same pin, authority, secret and proxy."""

import ssl
from pathlib import Path

import pytest

from device_runtime.config import DeviceConfig
from device_runtime.fetching.fetching import UnreachableError
from device_runtime.fetching.source import make_fetcher
from process.errors import StartError
from process.machine import CACHE_VARIABLE
from process.tls.certificates import pin_of_pem
from tests.support.bundle_server import SECRET, bundle_server
from tests.support.connect_proxy import ConnectProxy
from tests.support.guarded import make_certificate
from tests.support.world import REAL

OTHER_PIN = "sha256/" + "A" * 43 + "="


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ssl.SSLContext, Path]:
    """What a cloud with a certificate of its own serves with, and that certificate."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    certificate, key = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context, certificate


def config_of(url: str, **more: object) -> DeviceConfig:
    return DeviceConfig(cloud=url, secret=SECRET, **more)  # type: ignore[arg-type]


async def test_the_clouds_pin_or_authority_is_enough(served, folder):
    tls, certificate = served
    trusted = {"cloud_pin": (pin_of_pem(certificate.read_bytes()),)}, {"cloud_ca": certificate}
    async with bundle_server(folder / "device", tls=tls) as server:
        for how in trusted:
            fetched = await make_fetcher(config_of(server.url, **how), REAL).at_start()
            assert (fetched / "device" / "hat.json").is_file()
        assert server.credentials == {f"Bearer {SECRET}"}


@pytest.mark.parametrize("how", [{}, {"cloud_pin": (OTHER_PIN,)}])
async def test_whoever_is_not_trusted_hears_nothing_of_the_secret(served, folder, how):
    async with bundle_server(folder / "device", tls=served[0]) as server:
        with pytest.raises(UnreachableError, match=r"certificate|which is not that of"):
            await make_fetcher(config_of(server.url, **how), REAL).at_start()
        assert server.credentials == set()


async def test_a_pin_of_no_use_is_told_before_anything_is_asked(served, folder):
    async with bundle_server(folder / "device") as server:
        with pytest.raises(StartError, match="of no use for a ws:// address"):
            make_fetcher(config_of(server.url, cloud_pin=(OTHER_PIN,)), REAL)
        assert server.asked == []


async def test_an_http_proxy_gives_a_tunnel_and_sees_no_secret(served, folder, monkeypatch):
    tls, certificate = served
    pin = pin_of_pem(certificate.read_bytes())
    async with (
        bundle_server(folder / "device", tls=tls) as server,
        ConnectProxy(server.port).running() as proxy,
    ):
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        config = config_of("wss://cloud.example", cloud_pin=(pin,))
        fetched = await make_fetcher(config, REAL).at_start()
        assert (fetched / "device" / "hat.json").is_file()
        assert all(head.startswith("CONNECT cloud.example:443 HTTP/1.1") for head in proxy.asked)
        assert SECRET not in "".join(proxy.asked)

"""A device shows a certificate in place of a secret, over real TLS."""

import asyncio
import contextlib
import shutil
import ssl
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from click.testing import CliRunner

from device_runtime.link.config import (
    ClientCertificate,
    LinkConfig,
    ModelIdentity,
    Patience,
    showing,
)
from device_runtime.link.link import Link
from hat.cli import hat
from process.errors import StartError
from tests.support.certificates import HAS_OPENSSL, Authority
from tests.support.cloud_client import connected, hello_for, until
from tests.support.event_loop import on_both_loops
from tests.support.world import REAL, serve_cloud
from wire.errors import FaultCode
from wire.handshake import BUNDLE_PATH

pytestmark = pytest.mark.skipif(not HAS_OPENSSL, reason="openssl makes the certificates")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Another authority, whom nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture
def settings(config, authority, tmp_path):
    certificate, key = authority.files("server", "DNS:localhost,IP:127.0.0.1")
    register = tmp_path / "tokens.json"
    invoke(register, "add", "bus", "--certificate")
    return replace(
        config,
        tls_certificate=certificate,
        tls_key=key,
        tls_client_ca=authority.ca,
        tokens_file=register,
    )


def invoke(register: Path, *arguments: str) -> str:
    result = CliRunner().invoke(hat, ["token", *arguments, "--tokens-file", str(register)])
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def link_of(server, authority, bundle, shown=None, secret=b""):
    manifest = bundle.manifest
    layers = (manifest.num_input_layers, manifest.num_middle_layers)
    model = ModelIdentity(bytes.fromhex(manifest.fingerprint), *layers, manifest.shape.hidden_size)
    config = LinkConfig(
        server.url, model, secret, authority.ca, shown and ClientCertificate(*shown)
    )
    return Link(config, REAL.clock, REAL.randomness)


@contextlib.asynccontextmanager
async def started(link):
    link.start()
    try:
        yield link
    finally:
        await link.close()


@on_both_loops
async def test_a_certificate_is_a_name_and_may_be_taken_away(
    settings, bundle, engine, authority, caplog
):
    caplog.set_level("INFO")
    car, bus = authority.files("car", "DNS:ignored"), authority.files("bus", "DNS:ignored")
    async with serve_cloud(settings, engine.load) as server:
        async with (
            started(link_of(server, authority, bundle, car)) as first,
            started(link_of(server, authority, bundle, bus)) as second,
        ):
            async with asyncio.timeout(10):
                await first.connected()
                await second.connected()
            assert {"car", "bus"} <= server.daemon.name_figures().keys()
            assert "a device of car at 127.0.0.1" in caplog.text
            invoke(settings.tokens_file, "revoke", "bus")
            await until(lambda: "bus was revoked" in (second.status.reason or ""))
            assert first.status.is_connected
        async with started(link_of(server, authority, bundle)) as nobody:
            await until(lambda: "refused this device" in (nobody.status.reason or ""))
            assert "expected a token or a certificate" in nobody.status.reason


async def test_a_token_counts_more_than_a_certificate(settings, bundle, engine, authority):
    token = invoke(settings.tokens_file, "add", "anna").encode()
    car = authority.files("car", "DNS:ignored")
    async with serve_cloud(settings, engine.load) as server:
        async with started(link_of(server, authority, bundle, car, token)) as link:
            async with asyncio.timeout(10):
                await link.connected()
            assert "anna" in server.daemon.name_figures()
        async with started(link_of(server, authority, bundle, car, b"a guess")) as link:
            await until(lambda: "refused this device" in (link.status.reason or ""))


@on_both_loops
@pytest.mark.parametrize("kind", ["stranger", "expired"])
async def test_a_certificate_that_the_cloud_does_not_take_is_told_to_its_device(
    kind, settings, bundle, engine, authority, stranger, tmp_path
):
    """By the alert of the handshake, which event loops do not send by themselves."""
    why = "does not know the authority of this device's certificate"
    car = stranger.files("car", "DNS:ignored")
    if kind == "expired":
        why, car = "finds this device's certificate expired", authority.expired_files()
        if car is None:
            return
    async with (
        serve_cloud(settings, engine.load) as server,
        started(link_of(server, authority, bundle, car)) as link,
    ):
        await until(lambda: why in (link.status.reason or ""))
        assert link.num_connections == 0
        assert server.daemon.figures().num_connections == 0


async def test_a_certificate_that_is_renewed_while_a_device_runs_is_taken_up(
    settings, bundle, engine, authority, stranger, tmp_path, caplog
):
    """Those of step-ca and cert-manager last for hours."""
    caplog.set_level("INFO")
    shown = tmp_path / "car.pem", tmp_path / "car.key"
    for source, path in zip(stranger.files("car", "DNS:ignored"), shown, strict=True):
        shutil.copy(source, path)
    async with serve_cloud(settings, engine.load) as server:
        link = link_of(server, authority, bundle, shown)
        link._config = replace(link._config, patience=Patience(refused_retry_s=0.05))
        async with started(link):
            await until(lambda: "does not know the authority" in (link.status.reason or ""))
            shown[0].write_text(shown[0].read_text()[:100])
            await until(lambda: "TLS with the cloud stays what it was: client" in caplog.text)
            for source, path in zip(authority.files("car", "DNS:ignored"), shown, strict=True):
                shutil.copy(source, path)
            async with asyncio.timeout(10):
                await link.connected()
    assert f"took up {shown[0]} and {shown[1]}" in caplog.text
    assert caplog.text.count("stays what it was") <= 3, "once for each change"


@on_both_loops
async def test_openssls_own_client_reads_the_alert(settings, engine, authority, stranger):
    certificate, key = stranger.files("car", "DNS:ignored")
    command = ["openssl", "s_client", "-ign_eof", "-CAfile", authority.ca, "-connect"]
    async with serve_cloud(settings, engine.load) as server:
        command.append(f"127.0.0.1:{urlsplit(server.url).port}")
        for shown, said in (
            (("-tls1_3", "-cert", certificate, "-key", key), b"unknown ca"),
            (("-tls1_2", "-cert", certificate, "-key", key), b"unknown ca"),
            (("-tls1_2", "-cipher", "AES128-SHA256"), b"handshake failure"),
        ):
            process = await asyncio.create_subprocess_exec(
                *command, *shown, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
            )
            output, _ = await asyncio.wait_for(process.communicate(), 20)
            assert said in output.lower(), shown


async def test_the_device_bundle_is_for_who_shows_a_certificate_and_for_nobody_else(
    settings, engine, authority
):
    alone = replace(settings, tokens_file=None, serve_device_bundle=settings.bundle)
    trust = ssl.create_default_context(cafile=authority.ca)
    statuses = []
    async with serve_cloud(alone, engine.load) as server:
        for shown in (None, ClientCertificate(*authority.files("car", "DNS:ignored"))):
            connector = aiohttp.TCPConnector(ssl=showing(trust, shown) or True)
            async with (
                aiohttp.ClientSession(connector=connector) as http,
                http.get(server.http_url + BUNDLE_PATH) as response,
            ):
                statuses.append(response.status)
    assert statuses == [401, 200]


async def test_who_shows_nothing_gets_a_fault(settings, bundle, engine, authority):
    trust = ssl.create_default_context(cafile=authority.ca)
    async with (
        serve_cloud(settings, engine.load) as server,
        connected(server.link_url, trust) as client,
    ):
        await client.send(hello_for(bundle.manifest))
        await client.expect_fault(FaultCode.BAD_CREDENTIAL)


async def test_files_that_cannot_be_used_are_said_at_the_start(
    settings, bundle, engine, authority, tmp_path
):
    (tmp_path / "empty").write_text("")
    with pytest.raises(StartError, match="no certificate is in"):
        await serve_cloud(replace(settings, tls_client_ca=tmp_path / "empty")).__aenter__()
    bare = replace(settings, tls_certificate=None, tls_key=None)
    with pytest.raises(StartError, match="over TLS alone"):
        await serve_cloud(bare).__aenter__()
    async with serve_cloud(settings, engine.load) as server:
        with pytest.raises(StartError, match="no file"):
            link_of(server, authority, bundle, (tmp_path / "a", tmp_path / "b"))
    car = ClientCertificate(*authority.files("car", "DNS:ignored"))
    with pytest.raises(StartError, match="use wss://"):
        showing(None, car)
    with pytest.raises(StartError, match="cannot use"):
        showing(ssl.create_default_context(), replace(car, key=authority.ca))

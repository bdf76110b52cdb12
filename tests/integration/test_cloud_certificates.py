"""A cloud's certificate over its life: shown, replaced, told to end. openssl and curl look on."""

import asyncio
import logging
import shutil
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloud_server.certificates import tls_lines, watch, with_own_certificate
from cloud_server.daemon.reception import server_tls
from device_runtime.link.config import ClientCertificate, showing
from device_runtime.link.trust import DialedTls
from process.errors import StartError
from process.tls.certificates import pin_of_pem
from process.tls.served import ServedTls
from tests.support.cloud_client import assert_serves, connected, hello_for
from tests.support.guarded import make_certificate
from tests.support.world import serve_cloud

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None or shutil.which("curl") is None, reason="they look on"
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


async def ran(*command: str, give: bytes = b"") -> tuple[int, bytes]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate(give)
    return process.returncode, output


async def shown_to_openssl(port: int) -> bytes:
    """The certificate that a new connection gets, PEM."""
    _, said = await ran("openssl", "s_client", "-connect", f"127.0.0.1:{port}")
    _, pem = await ran("openssl", "x509", give=said)
    return pem


def bare() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def folder_at(path: Path) -> Path:
    path.mkdir()
    return path


def test_files_that_are_no_pair_are_told_in_words(tmp_path):
    certificate, key = make_certificate(tmp_path)
    other, _ = make_certificate(folder_at(tmp_path / "others"))
    with pytest.raises(StartError, match="not that of the first certificate in the file"):
        server_tls(other, key)
    key.write_text("no key")
    with pytest.raises(StartError, match="expected a certificate and its private key, both PEM"):
        server_tls(certificate, key)
    client = ClientCertificate(certificate, key)
    with pytest.raises(StartError, match="expected a certificate and its private key, both PEM"):
        showing(ssl.create_default_context(), client)


async def test_what_is_shown_changes_with_its_files_and_connections_stay(
    config, bundle, engine, tmp_path
):
    certificate, key = make_certificate(tmp_path)
    others = make_certificate(folder_at(tmp_path / "others"))
    secure = replace(config, tls_certificate=certificate, tls_key=key)
    old = certificate.read_bytes()
    async with serve_cloud(secure, engine.load) as server:
        port = int(server.url.rpartition(":")[2])
        assert pin_of_pem(await shown_to_openssl(port)) == pin_of_pem(old) == server.tls.pin
        async with connected(
            server.link_url, ssl.create_default_context(cafile=certificate)
        ) as client:
            await client.shake_hands(hello_for(bundle.manifest))
            assert not server.tls.look(NOW)
            shutil.copy(others[0], certificate)
            with pytest.raises(StartError, match="KEY_VALUES_MISMATCH"):
                server.tls.look(NOW)
            assert not server.tls.look(NOW), "what cannot be used is told once"
            assert pin_of_pem(await shown_to_openssl(port)) == pin_of_pem(old)
            shutil.copy(others[1], key)
            assert server.tls.look(NOW)
            new = await shown_to_openssl(port)
            assert pin_of_pem(new) == pin_of_pem(others[0].read_bytes()) == server.tls.pin
            await assert_serves(client, 1, seed=1)


async def test_curl_takes_the_pin_and_no_other(config, engine, tmp_path):
    certificate, key = make_certificate(tmp_path)
    secure = replace(config, tls_certificate=certificate, tls_key=key)
    async with serve_cloud(secure, engine.load) as server:
        pin = server.tls.pin.replace("sha256/", "sha256//")
        ask = ("curl", "-sk", f"{server.http_url}/health", "--pinnedpubkey")
        assert await ran(*ask, pin) == (0, b"ok")
        wrong = "sha256//" + "A" * 43 + "="
        assert await ran(*ask, wrong) == (90, b""), "CURLE_SSL_PINNEDPUBKEYNOTMATCH"


@pytest.mark.parametrize(
    ("changes", "scheme"),
    [
        ({"metrics_host": "0.0.0.0"}, "https"),
        ({"metrics_host": "0.0.0.0", "insecure": True}, "http"),
        ({}, "http"),
    ],
)
async def test_figures_beyond_this_machine_have_the_same_certificate(
    config, engine, tmp_path, changes, scheme
):
    certificate, key = make_certificate(tmp_path)
    secure = replace(config, tls_certificate=certificate, tls_key=key, **changes)
    async with serve_cloud(secure, engine.load) as server:
        url = server.metrics_url.replace("0.0.0.0", "127.0.0.1")
        assert url.startswith(f"{scheme}://127.0.0.1:")
        pin = server.tls.pin.replace("sha256/", "sha256//")
        told = await ran("curl", "-sk", f"{url}/ready", "--pinnedpubkey", pin)
        assert told == (0, b"ready")
        code, page = await ran("curl", "-s", "--cacert", str(certificate), f"{url}/metrics")
        assert (code, b"hat_cloud_connections" in page) == (0, True)


async def test_a_self_signed_cloud_is_served_as_it_says(config, engine, tmp_path):
    environ = {"HAT_CACHE": str(tmp_path)}
    asked = replace(config, tls_self_signed=True, secret="s" * 20)
    own = with_own_certificate(asked, ["127.0.0.1"], environ, datetime.now(UTC))
    assert own.tls_certificate == tmp_path / "tls" / "certificate.pem"
    async with serve_cloud(own, engine.load) as server:
        told = "\n".join(tls_lines(own, server.tls, server.device_url))
        cloud = f"--cloud {server.url} --cloud-pin {server.tls.pin} "
        assert f"hat device BUNDLE {cloud}" in told
        assert "s" * 20 not in told
        trust = ("--cacert", str(own.tls_certificate))
        assert await ran("curl", "-s", *trust, f"{server.http_url}/ready") == (0, b"ready")
    assert with_own_certificate(config, [], environ, NOW) == config
    with pytest.raises(StartError, match="leave out tls_certificate"):
        with_own_certificate(replace(asked, tls_key=Path("key.pem")), [], environ, NOW)


def test_an_expired_certificate_is_not_taken_up(tmp_path):
    certificate, key = make_certificate(tmp_path)
    tls = ServedTls(bare, certificate, key)
    pin, context = tls.pin, tls.context()
    make_certificate(tmp_path)
    with pytest.raises(StartError, match="has expired on"):
        tls.look(datetime.now(UTC) + 60 * DAY)
    assert (tls.pin, tls.context()) == (pin, context)
    certificate.unlink()
    with pytest.raises(StartError, match="no such file"):
        tls.look(NOW)
    make_certificate(tmp_path)
    assert tls.look(NOW)
    assert tls.pin != pin


def test_files_that_could_not_be_used_once_are_tried_again_though_they_stay_the_same(tmp_path):
    """Too many open files, a disk that failed, a clock that was wrong: none of it is in a file."""
    certificate, key = make_certificate(tmp_path)
    is_failing = False

    def make() -> ssl.SSLContext:
        if is_failing:
            raise StartError("too many open files")
        return bare()

    tls = ServedTls(make, certificate, key)
    pin = tls.pin
    make_certificate(tmp_path)
    is_failing = True
    with pytest.raises(StartError, match="too many open files"):
        tls.look(NOW)
    assert not tls.look(NOW), "it is told once"
    is_failing = False
    assert tls.look(NOW)
    assert tls.pin != pin
    assert not tls.look(NOW)


def test_a_device_tries_files_again_that_could_not_be_used_once(tmp_path, caplog, monkeypatch):
    shown = ClientCertificate(*make_certificate(tmp_path))
    tls = DialedTls("wss://cloud", shown=shown)
    before, made = tls.context(), DialedTls._made
    make_certificate(tmp_path)

    def failing(self: DialedTls) -> None:
        raise StartError("too many open files")

    monkeypatch.setattr(DialedTls, "_made", failing)
    assert tls.context() is tls.context() is before
    assert caplog.text.count("stays what it was: too many open files") == 1
    monkeypatch.setattr(DialedTls, "_made", made)
    after = tls.context()
    assert after is not before
    assert tls.context() is after


def test_files_that_are_turned_as_kubernetes_turns_them_are_taken_up(tmp_path):
    """Links to a link to a folder, which is replaced at once."""
    for name in ("first", "second"):
        make_certificate(folder_at(tmp_path / name))
    (tmp_path / "data").symlink_to("first")
    for name in ("certificate.pem", "key.pem"):
        (tmp_path / name).symlink_to(f"data/{name}")
    tls = ServedTls(bare, tmp_path / "certificate.pem", tmp_path / "key.pem")
    (tmp_path / "next").symlink_to("second")
    (tmp_path / "next").replace(tmp_path / "data")
    assert tls.look(NOW)
    assert tls.pin == pin_of_pem((tmp_path / "second" / "certificate.pem").read_bytes())


@pytest.mark.event_loop("virtual")
async def test_the_end_is_told_from_two_weeks_before_once_a_day(tmp_path, caplog):
    certificate, key = make_certificate(tmp_path, "-days", "20")
    tls = ServedTls(bare, certificate, key)
    loop, begun = asyncio.get_running_loop(), datetime.now(UTC)
    start_s = loop.time()

    def now() -> datetime:
        """A day for each second of this loop."""
        return begun + (loop.time() - start_s) * DAY

    watching = asyncio.create_task(watch(tls, now, every_s=0.04))
    try:
        await asyncio.sleep(5.5)
        assert not caplog.records
        await asyncio.sleep(3)
        levels = [record.levelno for record in caplog.records]
        assert levels == [logging.WARNING] * 3
        await asyncio.sleep(12.5)
        assert caplog.records[-1].levelno == logging.ERROR
        assert "has expired on" in caplog.records[-1].getMessage()
        make_certificate(tmp_path, "-days", "25")
        await asyncio.sleep(0.1)
        assert "expires on" in caplog.records[-1].getMessage(), "at once, of one that is taken up"
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_when_the_certificate_ends_is_among_the_figures(config, engine, tmp_path):
    certificate, key = make_certificate(tmp_path, "-days", "30")
    secure = replace(config, tls_certificate=certificate, tls_key=key)
    async with serve_cloud(secure, engine.load) as server:
        page = server.metrics.render(None).decode()
        (line,) = (each for each in page.splitlines() if each.startswith("hat_cloud_tls_not"))
        assert abs(float(line.split()[1]) - datetime.now(UTC).timestamp() - 30 * 86400) < 600
    async with serve_cloud(config, engine.load) as server:
        page = server.metrics.render(None).decode()
        assert "\nhat_cloud_tls_not_after_seconds NaN\n" in page, "no alert compares with that"

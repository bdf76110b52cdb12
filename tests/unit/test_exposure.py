"""What programs say at their start about what their settings expose."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloud_server.config import CloudConfig
from cloud_server.exposure import exposure_of as exposure_of_cloud
from device_runtime.config import DeviceConfig
from device_runtime.exposure import exposure_of as exposure_of_device
from hat.settings.secret_files import readable_note, who_may_read
from process.listening.limits import Limits
from process.program.exposure import certificate_notices, is_loopback
from process.tls.certificates import (
    CertificateError,
    Validity,
    pin_of_der,
    pin_of_pem,
    validities,
)
from tests.support.guarded import make_certificate
from wire.limits import MAX_CREDENTIAL_BYTES

NOW = datetime(2026, 6, 1, tzinfo=UTC)
LONG = "s" * 40
CLOUD = CloudConfig(Path("bundle"), secret=LONG)
DEVICE = DeviceConfig(Path("bundle"), secret=LONG)


def _cloud(**changes: object) -> str:
    notices = exposure_of_cloud(replace(CLOUD, **changes), Limits(1024, 512), NOW)
    return "; ".join(("fatal: " if each.fatal else "") + each.text for each in notices)


def _device(**changes: object) -> str:
    notices = exposure_of_device(replace(DEVICE, **changes))
    return "; ".join(("fatal: " if each.fatal else "") + each.text for each in notices)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost", "a.localhost"])
def test_programs_that_only_this_machine_reaches_have_nothing_to_say(host):
    assert _cloud(host=host, secret=None) == ""
    assert _device(host=host, secret=None) == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gpu-server", ""])
def test_programs_that_others_reach_say_what_they_leave_open(host):
    assert "--secret-file" in _cloud(host=host, secret=None)
    assert "--secret-file" not in _cloud(host=host)
    assert "rows and the secret would come in unencrypted" in _cloud(host=host)
    assert "--api-key-file" in _device(host=host)
    assert "--api-key-file" not in _device(host=host, api_key=LONG)
    assert "the API key travel unencrypted" in _device(host=host, api_key=LONG)


def test_names_for_a_certificate_that_nobody_makes_are_refused():
    told = "fatal: --tls-names are those of a certificate that is made here: add --tls-self-signed"
    assert _cloud(tls_names=("gpu",)) == told
    assert _cloud(tls_names=("gpu",), tls_self_signed=True) == ""


def test_figures_that_others_reach_are_said():
    assert _cloud(metrics_host="::1") == ""
    clear = _cloud(metrics_host="0.0.0.0")
    assert clear.startswith("fatal: what all devices do could be read unencrypted on 0.0.0.0")
    asked = _cloud(metrics_host="0.0.0.0", insecure=True)
    assert asked.startswith("what all devices do can be read without TLS or secret on 0.0.0.0")
    over_tls = _cloud(metrics_host="0.0.0.0", tls_self_signed=True)
    assert over_tls.startswith("what all devices do can be read without a secret on 0.0.0.0")


@pytest.mark.parametrize(
    ("host", "metrics_host", "is_refused"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "localhost", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("10.0.0.7", "::", True),
        ("10.0.0.7", "127.0.0.1", False),
        ("gpu-server", "10.0.0.7", False),
    ],
)
def test_one_port_for_devices_and_figures_is_told_as_such(host, metrics_host, is_refused):
    tls = {"tls_self_signed": True, "host": host, "metrics_host": metrics_host}
    expected = "fatal: --metrics-port 7700 is --port as well: /metrics wants a port of its own"
    assert (expected in _cloud(**tls, metrics_port=7700)) == is_refused
    assert "is --port as well" not in _cloud(**tls, metrics_port=7702)
    assert "is --port as well" not in _cloud(**tls)
    assert "is --port as well" not in _cloud(**tls, port=0, metrics_port=0)


@pytest.mark.parametrize(
    ("cloud", "is_refused"),
    [
        ("ws://gpu-server:7700", True),
        ("ws://10.0.0.1", True),
        ("wss://gpu-server:7700", False),
        ("ws://127.0.0.1:7700", False),
        ("ws://[::1]:7700", False),
        ("ws://localhost:7700", False),
    ],
)
def test_a_secret_in_clear_to_another_host_is_refused_until_it_is_spelled_out(cloud, is_refused):
    refused = "fatal: the secret and rows would go to"
    assert _device(cloud=cloud).startswith(refused) == is_refused
    assert ("the secret and rows go to" in _device(cloud=cloud, insecure=True)) == is_refused
    assert "fatal" not in _device(cloud=cloud, insecure=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "gpu-server"])
def test_a_cloud_beyond_this_machine_wants_tls_or_a_word_for_none(host, tmp_path):
    assert "fatal: rows and the secret would come in" in _cloud(host=host)
    assert "fatal: rows would come in unencrypted" in _cloud(host=host, secret=None)
    assert "--tls-self-signed" in _cloud(host=host)
    assert "fatal" not in _cloud(host=host, insecure=True)
    assert "as --insecure has it" in _cloud(host=host, insecure=True)
    files = {"tls_certificate": tmp_path / "c.pem", "tls_key": tmp_path / "k.pem"}
    assert _cloud(host=host, **files) == ""


def test_a_secret_that_no_hello_can_carry_is_fatal_on_both_sides():
    for told in (_cloud, _device):
        assert told(secret="s" * MAX_CREDENTIAL_BYTES) == ""
        assert told(secret="s" * (MAX_CREDENTIAL_BYTES + 1)).startswith("fatal: the secret is 1025")
    # An API key travels in an HTTP header.
    assert _device(api_key="s" * 4096) == ""


def test_short_secrets_are_said_but_never_shown():
    assert "5 characters" in _cloud(secret="guess")
    assert "guess" not in _cloud(secret="guess").replace("guessed", "")
    assert "API key" in _device(api_key="short")


def test_a_limit_of_open_files_below_the_devices_is_said():
    [notice] = exposure_of_cloud(CLOUD, Limits(100, 50), NOW)
    assert "ulimit -n" in notice.text
    assert not notice.fatal


def test_certificates_are_judged_by_their_dates():
    def told(begins_days: float, ends_days: float, place: int = 0) -> list[tuple[str, bool]]:
        day = timedelta(days=1)
        fine = Validity(NOW - 100 * day, NOW + 100 * day)
        chain = [fine] * place + [Validity(NOW + begins_days * day, NOW + ends_days * day)]
        return [(each.text, each.fatal) for each in certificate_notices("c.pem", chain, NOW)]

    assert told(-30, 15) == []
    assert [fatal for _, fatal in told(-30, 13)] == [False]
    assert [fatal for _, fatal in told(-30, -1)] == [True]
    assert [fatal for _, fatal in told(-30, -1, place=1)] == [False]
    assert "expires on 2026-06-04" in told(-30, 3)[0][0]
    assert "not valid before 2026-06-02" in told(1, 300)[0][0]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_the_dates_of_certificates_are_those_that_openssl_wrote(tmp_path):
    now = datetime.now(UTC)
    for days in (1, 30, 40_000):
        certificate, key = make_certificate(tmp_path, "-days", str(days))
        [validity] = validities(certificate.read_bytes())
        assert abs(validity.begins - now) < timedelta(minutes=10)
        assert abs(validity.ends - now - timedelta(days=days)) < timedelta(minutes=10)
    chain = certificate.read_bytes() * 3 + key.read_bytes()
    assert len(validities(chain)) == 3
    notices = exposure_of_cloud(
        replace(CLOUD, tls_certificate=certificate, tls_key=key),
        Limits(1024, 512),
        now + timedelta(days=50_000),
    )
    assert [each.fatal for each in notices] == [True]


def test_what_is_no_certificate_is_not_read_as_one():
    begin, end = b"-----BEGIN CERTIFICATE-----\n", b"\n-----END CERTIFICATE-----\n"
    bodies = (b"AAAA", b"MIIB", b"MAMCAQA=", b"A")
    for pem in (b"", b"words", *(begin + body + end for body in bodies)):
        for read in (validities, pin_of_pem):
            with pytest.raises(CertificateError):
                read(pem)
    with pytest.raises(CertificateError):
        pin_of_der(b"\x30\x00")


@pytest.mark.parametrize(
    ("mode", "is_own", "who"),
    [
        (0o600, True, None),
        (0o400, True, None),
        (0o640, True, "its group"),
        (0o440, False, None),
        (0o644, True, "every user"),
        (0o444, False, "every user"),
        (0o666, True, "every user"),
    ],
)
def test_files_with_secrets_that_others_may_read_are_said(mode, is_own, who):
    found = who_may_read(mode, is_own=is_own)
    assert (found is None) == (who is None)
    assert found is None or who in found


def test_a_real_file_is_looked_at(tmp_path):
    path = tmp_path / "secret"
    path.write_text(LONG)
    path.chmod(0o600)
    assert readable_note(path) is None
    path.chmod(0o644)
    assert "chmod 600" in readable_note(path)
    assert readable_note(tmp_path / "none") is None


def test_names_that_only_look_like_this_machine_are_others():
    for host in ("localhost.evil.example", "127.0.0.1.example", "0.0.0.0", "", "::"):
        assert not is_loopback(host)

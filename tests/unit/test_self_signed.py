"""A certificate that a cloud makes for itself, read by what nobody here wrote."""

import base64
import os
import shutil
import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from process.errors import StartError
from process.own_names import own_names
from process.tls.certificates import (
    CertificateError,
    parse_pin,
    pin_of_der,
    pin_of_pem,
    validities,
)
from process.tls.self_signed import self_signed

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl reads it")


def openssl(*arguments: str | Path, give: bytes = b"") -> bytes:
    command = ["openssl", *map(str, arguments)]
    return subprocess.run(command, input=give, check=True, capture_output=True).stdout


def pin_by_openssl(certificate: Path) -> str:
    key = openssl("x509", "-in", certificate, "-pubkey", "-noout")
    digest = openssl(
        "dgst", "-sha256", "-binary", give=openssl("pkey", "-pubin", "-outform", "der", give=key)
    )
    return "sha256/" + base64.b64encode(digest).decode()


@needs_openssl
@pytest.mark.parametrize(
    "kind", [("rsa:2048",), ("ec", "-pkeyopt", "ec_paramgen_curve:P-384"), ("ed25519",)]
)
def test_a_pin_is_what_openssl_makes_of_any_kind_of_key(kind, tmp_path):
    path = tmp_path / "c.pem"
    ask = ("req", "-x509", "-nodes", "-subj", "/CN=x", "-keyout", tmp_path / "k.pem", "-out", path)
    openssl(*ask, "-newkey", *kind)
    assert pin_of_pem(path.read_bytes()) == pin_by_openssl(path)
    assert pin_of_der(openssl("x509", "-in", path, "-outform", "der")) == pin_by_openssl(path)


@needs_openssl
def test_a_kind_of_key_whose_pin_would_be_another_than_curls_has_none(tmp_path):
    path = tmp_path / "c.pem"
    ask = ("req", "-x509", "-nodes", "-subj", "/CN=x", "-keyout", tmp_path / "k.pem", "-out", path)
    openssl(*ask, "-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048")
    with pytest.raises(CertificateError, match="use RSA, EC or Ed25519"):
        pin_of_pem(path.read_bytes())
    assert len(validities(path.read_bytes())) == 1


def test_a_pin_is_read_as_it_is_written_and_as_curl_has_it():
    for fill in (b"\x00", b"\xff", b"\xfb"):
        code = base64.b64encode(fill * 32).decode()
        assert parse_pin(f"sha256/{code}") == f"sha256/{code}"
        assert parse_pin(f" sha256//{code}\n") == f"sha256/{code}"
    for wrong in (
        "",
        "sha256/",
        f"sha1/{code}",
        code,
        f"sha256/{code[:-4]}",
        f"sha256///{code}",
        "sha256/!",
    ):
        with pytest.raises(ValueError, match=r".+"):
            parse_pin(wrong)


@needs_openssl
def test_what_is_made_is_a_servers_certificate_for_all_names_and_the_key_is_for_one_alone(tmp_path):
    folder = tmp_path / "state" / "tls"
    files = self_signed(folder, ["gpu-server", "10.0.0.1", "::1"], NOW)
    text = openssl("x509", "-in", files.certificate, "-noout", "-text").decode()
    assert "DNS:gpu-server, IP Address:10.0.0.1, IP Address:0:0:0:0:0:0:0:1" in text
    assert "CA:FALSE" in text
    assert "TLS Web Server Authentication" in text
    assert pin_by_openssl(files.certificate) == pin_of_pem(files.certificate.read_bytes())
    [validity] = validities(files.certificate.read_bytes())
    assert validity.begins < NOW < validity.ends - 800 * DAY
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == ["certificate.pem", "key.pem"]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)


@needs_openssl
def test_it_does_as_an_authority_of_its_own_by_the_strictest_rules(tmp_path):
    files = self_signed(tmp_path, ["gpu-server"], datetime.now(UTC))
    openssl(
        "verify",
        "-x509_strict",
        "-CAfile",
        files.certificate,
        "-purpose",
        "sslserver",
        "-verify_hostname",
        "gpu-server",
        files.certificate,
    )


def test_the_key_stays_whatever_becomes_of_the_certificate(tmp_path):
    files = self_signed(tmp_path, ["a"], NOW)
    first, key = files.certificate.read_bytes(), files.key.read_bytes()
    assert self_signed(tmp_path, ["a"], NOW + 700 * DAY) == files
    assert files.certificate.read_bytes() == first
    self_signed(tmp_path, ["b"], NOW)
    for_both = files.certificate.read_bytes()
    assert for_both != first
    self_signed(tmp_path, ["a"], NOW)
    self_signed(tmp_path, ["a", "b"], NOW)
    assert files.certificate.read_bytes() == for_both
    self_signed(tmp_path, ["a"], NOW + 800 * DAY)
    renewed = files.certificate.read_bytes()
    assert renewed != for_both
    files.certificate.write_bytes(b"damaged")
    self_signed(tmp_path, ["a"], NOW)
    assert files.key.read_bytes() == key
    assert (
        len({pin_of_pem(pem) for pem in (first, for_both, renewed, files.certificate.read_bytes())})
        == 1
    )


def test_a_certificate_of_another_key_is_not_kept(tmp_path):
    files = self_signed(tmp_path, ["a"], NOW)
    old = pin_of_pem(files.certificate.read_bytes())
    files.key.unlink()
    self_signed(tmp_path, ["a"], NOW)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    assert pin_of_pem(files.certificate.read_bytes()) != old


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path):
    files = self_signed(tmp_path / "tls", ["a"], NOW)
    files.key.chmod(0o640)
    with pytest.raises(StartError, match="chmod 600"):
        self_signed(tmp_path / "tls", ["a"], NOW)
    files.key.chmod(0o600)
    files.key.write_text("words")
    with pytest.raises(StartError, match="expected a private key"):
        self_signed(tmp_path / "tls", ["a"], NOW)
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"cannot keep a certificate in .*file/tls: "):
        self_signed(tmp_path / "file" / "tls", ["a"], NOW)


def test_the_names_of_a_listener_are_its_own_and_this_machines():
    assert own_names("gpu-server") == ["gpu-server", "localhost", "127.0.0.1", "::1"]
    assert own_names("127.0.0.1") == ["127.0.0.1", "localhost", "::1"]
    everywhere = own_names("0.0.0.0")
    assert everywhere[0] == os.uname().nodename
    assert "0.0.0.0" not in everywhere

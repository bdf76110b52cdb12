"""Certificates that others made: which hosts they are for, and what is told where that is odd."""

import ipaddress
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cloud_server.certificates import tls_lines
from cloud_server.config import CloudConfig
from cloud_server.daemon.reception import server_tls
from cloud_server.exposure import exposure_of
from process.errors import StartError
from process.listening.limits import Limits
from process.tls.certificates import names_of_pem
from process.tls.served import ServedTls

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def _made(folder: Path, names: Sequence[x509.GeneralName], weak: bool = False) -> tuple[Path, Path]:
    """A certificate for these alternative names, and its key."""
    key = rsa.generate_private_key(65537, 1024) if weak else ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gpu-server")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=90))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    paths[1].write_bytes(pem)
    return paths


def _said(certificate: Path) -> str:
    config = CloudConfig(Path("bundle"), secret="s" * 40, tls_certificate=certificate)
    return "; ".join(each.text for each in exposure_of(config, Limits(1024, 512), NOW))


def test_what_is_no_host_is_given_to_no_device_as_one(tmp_path: Path) -> None:
    certificate, _ = _made(
        tmp_path,
        [
            x509.UniformResourceIdentifier("spiffe://mesh/cloud"),
            x509.RFC822Name("who@example.org"),
            x509.DNSName("gpu.example.org"),
            x509.IPAddress(ipaddress.ip_address("2001:db8::7")),
        ],
    )
    assert names_of_pem(certificate.read_bytes()) == ("gpu.example.org", "2001:db8::7")
    assert _said(certificate) == ""


@pytest.mark.parametrize("names", [[], [x509.UniformResourceIdentifier("spiffe://mesh/cloud")]])
def test_a_certificate_for_no_host_is_taken_by_its_pin_which_the_line_for_devices_has(
    names: list[x509.GeneralName], tmp_path: Path
) -> None:
    """The common name counts no more, for no client of these years."""
    certificate, key = _made(tmp_path, names)
    text = f"{certificate} is for no host (it has no alternative names)"
    assert text in _said(certificate)

    def make() -> object:
        return server_tls(certificate, key)

    served = ServedTls(make, certificate, key)  # type: ignore[arg-type]
    config = CloudConfig(Path("bundle"), tls_certificate=certificate, tls_key=key)
    line = tls_lines(config, served, "wss://10.0.0.7:7700")[1]
    assert (
        line == f"device    hat device BUNDLE --cloud wss://10.0.0.7:7700 --cloud-pin {served.pin}"
    )
    assert "--cloud-pin" in tls_lines(replace(config, tls_self_signed=True), served, "wss://h")[1]


def test_a_key_that_this_system_finds_too_weak_is_told_as_that(tmp_path: Path) -> None:
    certificate, key = _made(tmp_path, [x509.DNSName("gpu-server")], weak=True)
    with pytest.raises(StartError, match=r"its key is too weak for this system \(EE_KEY_TOO_SMALL"):
        server_tls(certificate, key)


def test_a_key_of_another_kind_than_its_certificate_is_told_as_another_key(tmp_path: Path) -> None:
    certificate, _ = _made(tmp_path, [x509.DNSName("gpu-server")])
    key = tmp_path / "rsa.pem"
    made = rsa.generate_private_key(65537, 2048)
    key.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(StartError, match="the key is not that of the first certificate in the"):
        server_tls(certificate, key)

"""A key and a certificate that a program makes for itself, and keeps.

Peers know it by the pin of its key, so the key stays what it is while there is its file, and the
certificate is made anew where a name is missing in it or it ends soon.
"""

import contextlib
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from process.errors import StartError, system_reason
from process.tls.certificates import names_in

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_LASTS = timedelta(days=825)
"""The longest that Apple's systems take of a certificate that a user has them trust."""

_RENEWED = timedelta(days=60)
"""Before its end."""

_CLOCKS_DIFFER = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where a certificate and its key are, PEM."""

    certificate: Path
    key: Path


def self_signed(folder: Path, names: Sequence[str], now: datetime) -> CertificateFiles:
    """Those of a folder, which has them if none were there; the key is for this user alone.

    The certificate is for these host names and addresses, and those it was for before.

    Raises:
        StartError: the folder cannot be used, or others may read the key.
    """
    files = CertificateFiles(folder / "certificate.pem", folder / "key.pem")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = _key(files.key)
        before = _certificate(files.certificate, key)
        if before is None or before.not_valid_after_utc < now + _RENEWED:
            kept: tuple[str, ...] = ()
        else:
            kept = names_in(before)
        if not set(names) <= set(kept):
            every = tuple(dict.fromkeys((*names, *kept)))
            _write(files.certificate, _signed(key, every, now), mode=0o644)
    except OSError as error:
        reason = system_reason(error)
        raise StartError(f"cannot keep a certificate in {folder}: {reason}") from error
    return files


def _key(path: Path) -> "EllipticCurvePrivateKey":
    """The key in the file, or the one that is made and put there."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    if not path.exists():
        made = ec.generate_private_key(ec.SECP256R1())
        pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        # Another program that makes one at this moment may be sooner.
        with contextlib.suppress(FileExistsError):
            _write(path, pem, mode=0o600, is_new=True)
    if path.stat().st_mode & 0o077:
        raise StartError(f"{path} can be read by others: chmod 600 {path}")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise StartError(
            f"expected a private key in {path}, found none that can be read"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StartError(f"expected an EC key in {path}, found another kind")
    return key


def _certificate(path: Path, key: "EllipticCurvePrivateKey") -> "x509.Certificate | None":
    """The one in the file, if it is of this key."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found if found.public_key() == key.public_key() else None


def _signed(key: "EllipticCurvePrivateKey", names: Sequence[str], now: datetime) -> bytes:
    """A certificate for a server with these names, PEM. Another one cannot be signed by it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import ExtendedKeyUsageOID

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hat cloud")])
    public = key.public_key()
    usage = [ExtendedKeyUsageOID.SERVER_AUTH]
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + _LASTS)
        .add_extension(x509.SubjectAlternativeName([_general(each) for each in names]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _general(name: str) -> "x509.GeneralName":
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(path: Path, data: bytes, mode: int, is_new: bool = False) -> None:
    """Put a whole file there, in place of another or, if it is to be new, of none.

    Raises:
        FileExistsError: there is one.
    """
    staged = path.with_name(f".{path.name}-{os.getpid()}")
    staged.unlink(missing_ok=True)
    file = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(file, "wb") as stream:
            stream.write(data)
        if is_new:
            os.link(staged, path)
        else:
            staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)

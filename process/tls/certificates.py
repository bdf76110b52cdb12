"""From when until when certificates are valid, the pins of their keys, and which are of no use.

A pin is the SHA-256 of a public key with its algorithm (SubjectPublicKeyInfo), so it outlives the
certificates that are made for the key.

Source: RFC 5280, section 4.1; RFC 7469, section 2.4.
"""

import base64
import binascii
import hashlib
import ssl
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from process.errors import system_reason

if TYPE_CHECKING:
    from cryptography import x509

PIN_PREFIX = "sha256/"

_PIN_BYTES = 32

_ANOTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""The last where both are of other kinds, such as RSA and EC."""

_TOO_WEAK = {
    "EE_KEY_TOO_SMALL": "key",
    "CA_KEY_TOO_SMALL": "authority's key",
    "CA_MD_TOO_WEAK": "signature's hash",
    "EE_MD_TOO_WEAK": "signature's hash",
}


class CertificateError(ValueError):
    """A certificate cannot be read."""


@dataclass(frozen=True, slots=True)
class Validity:
    """The first and the last moment of a certificate."""

    begins: datetime
    ends: datetime


def validities(pem: bytes) -> list[Validity]:
    """One of each certificate of a file, in order.

    Raises:
        CertificateError: there is none, or one of them is damaged.
    """
    return [Validity(each.not_valid_before_utc, each.not_valid_after_utc) for each in _of_pem(pem)]


def pin_of_pem(pem: bytes) -> str:
    """The pin of the key of a file's first certificate, which is a server's own.

    Raises:
        CertificateError: there is none, or its key is of no known kind.
    """
    return _pin(_of_pem(pem)[0])


def pin_of_der(der: bytes) -> str:
    """The same of a certificate as it is shown in a handshake.

    Raises:
        CertificateError: it is damaged, or its key is of no known kind.
    """
    from cryptography import x509

    try:
        certificate = x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise CertificateError(f"no certificate: {error}") from error
    return _pin(certificate)


def names_of_pem(pem: bytes) -> tuple[str, ...]:
    """The host names and addresses that a file's first certificate is for.

    Raises:
        CertificateError: there is none.
    """
    return names_in(_of_pem(pem)[0])


def names_in(certificate: "x509.Certificate") -> tuple[str, ...]:
    """The same of a certificate; none where it has no alternative names, which alone count.

    Those of other kinds, such as URIs, are no hosts.
    """
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return ()
    hosts = (x509.DNSName, x509.IPAddress)
    return tuple(str(each.value) for each in found.value if isinstance(each, hosts))


def parse_pin(text: str) -> str:
    """A pin as `pin_of_pem` writes it, from that or from curl's `sha256//`.

    Raises:
        ValueError: it is none.
    """
    prefix, slash, code = text.strip().partition("/")
    # Base64 has a slash of its own, so only a length tells curl's second one.
    if len(code) == 1 + len(base64.b64encode(bytes(_PIN_BYTES))):
        code = code.removeprefix("/")
    try:
        digest = base64.b64decode(code, validate=True)
    except binascii.Error:
        digest = b""
    if prefix + slash != PIN_PREFIX or len(digest) != _PIN_BYTES:
        raise ValueError(f"expected {PIN_PREFIX} and {_PIN_BYTES} bytes in base64")
    return _written(digest)


def why_no_pair(error: Exception) -> str:
    """Why `load_cert_chain` does not take a certificate and a key, in words for users."""
    match error:
        case ssl.SSLError(reason=str(reason)) if reason in _ANOTHER_KEY:
            return (
                "the key is not that of the first certificate in the file; those of authorities "
                f"come behind it ({reason})"
            )
        case ssl.SSLError(reason=str(reason)) if reason in _TOO_WEAK:
            return f"its {_TOO_WEAK[reason]} is too weak for this system ({reason})"
        case ssl.SSLError(reason=reason):
            code = f" ({reason})" if reason else ""
            return f"expected a certificate and its private key, both PEM{code}"
        case OSError():
            return system_reason(error)
        case _:
            return str(error)


def _of_pem(pem: bytes) -> "list[x509.Certificate]":
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise CertificateError(f"no certificate: {error}") from error


def _pin(certificate: "x509.Certificate") -> str:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509.oid import PublicKeyAlgorithmOID

    if certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
        # It would be written as RSA's, and so have another pin than curl and openssl give it.
        raise CertificateError("keys of RSASSA-PSS have no pin here: use RSA, EC or Ed25519")
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"no known kind of key: {error}") from error
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _written(hashlib.sha256(info).digest())


def _written(digest: bytes) -> str:
    return PIN_PREFIX + base64.b64encode(digest).decode()

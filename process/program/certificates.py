"""From when until when the certificates of a PEM file are valid (RFC 5280, section 4.1)."""

import base64
import re
from dataclasses import dataclass
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----([A-Za-z0-9+/=\s]+?)-----END")
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


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
        CertificateError: one of them is cut off or no certificate.
    """
    try:
        return [_validity(base64.b64decode(body)) for body in _PEM.findall(pem)]
    except (ValueError, IndexError) as error:
        raise CertificateError(f"no certificate: {error}") from error


def _validity(der: bytes) -> Validity:
    certificate = _inside(der, 0, _SEQUENCE)
    fields = _inside(certificate, 0, _SEQUENCE)
    place = 0
    if fields[0] == _VERSION:
        place = _end(fields, place)
    # Serial number, signature algorithm and issuer go before it.
    for _ in range(3):
        place = _end(fields, place)
    times = _inside(fields, place, _SEQUENCE)
    return Validity(_time(times, 0), _time(times, _end(times, 0)))


def _time(data: bytes, place: int) -> datetime:
    start, end = _bounds(data, place)
    text = data[start:end].decode("ascii")
    if data[place] == _UTC_TIME:
        # Two digits of the year: 50 to 99 are of the last century.
        text = ("19" if text[:2] >= "50" else "20") + text
    elif data[place] != _GENERALIZED_TIME:
        raise ValueError("expected a time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _inside(data: bytes, place: int, tag: int) -> bytes:
    if data[place] != tag:
        raise ValueError(f"expected tag {tag:#x}, got {data[place]:#x}")
    start, end = _bounds(data, place)
    return data[start:end]


def _end(data: bytes, place: int) -> int:
    return _bounds(data, place)[1]


def _bounds(data: bytes, place: int) -> tuple[int, int]:
    """Where the content of a DER value begins and ends."""
    length, start = data[place + 1], place + 2
    if length & 0x80:
        num_bytes = length & 0x7F
        length = int.from_bytes(data[start : start + num_bytes], "big")
        start += num_bytes
    if start + length > len(data):
        raise ValueError("cut off")
    return start, start + length

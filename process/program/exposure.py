"""What a program's settings expose, said once at its start."""

import ipaddress
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from process.errors import PassingError, StartError
from process.tls.certificates import Validity

LEAST_SECRET_CHARACTERS = 16
"""About what 96 random bits take in base64: out of reach of guesses over a network."""

_SOON = timedelta(days=14)
_DAY = "%Y-%m-%d"


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to know. What is `fatal` can never work."""

    text: str
    fatal: bool = False
    may_pass: bool = False
    """Of what is fatal: another program may mend it, such as one that renews certificates."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


def secret_notices(secret: str | None, max_bytes: int) -> list[Notice]:
    """Whether a secret between device and cloud can be sent, and is hard to guess."""
    if secret is None:
        return []
    num_bytes = len(secret.encode())
    if num_bytes > max_bytes:
        text = f"the secret is {num_bytes} bytes long, and a device can send {max_bytes}"
        return [Notice(text, fatal=True)]
    return key_notices(secret, "the secret")


def key_notices(key: str | None, what: str) -> list[Notice]:
    """Whether a key is hard to guess."""
    if key is None or len(key) >= LEAST_SECRET_CHARACTERS:
        return []
    advice = "`head -c 32 /dev/urandom | base64` makes a better one"
    return [Notice(f"{what} has {len(key)} characters and can be guessed: {advice}")]


def certificate_notices(name: str, all_valid: Sequence[Validity], now: datetime) -> list[Notice]:
    """Whether a chain of certificates is valid now and for some days."""
    notices = []
    for place, validity in enumerate(all_valid):
        if validity.ends < now:
            # The first is the program's own; a device may find another way past a later one.
            text = f"the certificate {name} has expired on {validity.ends:{_DAY}}"
            told = f"{text}: every device will refuse it"
            notices.append(Notice(told, fatal=place == 0, may_pass=True))
        elif validity.ends < now + _SOON:
            notices.append(Notice(f"the certificate {name} expires on {validity.ends:{_DAY}}"))
        elif validity.begins > now:
            text = f"the certificate {name} is not valid before {validity.begins:{_DAY}}"
            notices.append(Notice(f"{text}: until then every device refuses it"))
    return notices


def tell(notices: Sequence[Notice], logger: logging.Logger) -> None:
    """Log what there is to know.

    Raises:
        StartError: the program cannot work like this.
    """
    for notice in notices:
        if not notice.fatal:
            logger.warning("%s", notice.text)
    for notice in notices:
        if notice.fatal:
            raise (PassingError if notice.may_pass else StartError)(notice.text)

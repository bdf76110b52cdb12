"""Addresses as hosts have them, and as they are written before a port."""

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

_USER = re.compile(r"^([a-z][a-z0-9+.-]*://)?.*@", re.IGNORECASE | re.DOTALL)

_ZERO = re.compile(r"0+(\.0+){0,3}")
"""Other ways to write 0.0.0.0, which systems take."""


def is_wildcard(host: str) -> bool:
    """Whether a listener there listens on all of a machine's addresses."""
    try:
        return not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return _ZERO.fullmatch(host) is not None


def near_host(host: str) -> str:
    """Where programs of this machine find a listener on this host."""
    if not is_wildcard(host):
        return host
    return "::1" if ":" in host else "127.0.0.1"


def far_address(host: str, own: Sequence[str]) -> str | None:
    """Where other machines find a listener on all addresses; None: there is no such address.

    `own` is what `own_names` lists. What listens on those of IPv6 mostly takes IPv4 as well.
    """
    addresses = [ipaddress.ip_address(name) for name in own if is_address(name)]
    far = [each for each in addresses if not each.is_loopback]
    version = 6 if ":" in host else 4
    fitting = [each for each in far if each.version == version]
    found = fitting or (far if version == 6 else [])
    return str(found[0]) if found else None


def bracketed(host: str) -> str:
    """A host as it stands in a URL: IPv6 in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def is_address(name: str) -> bool:
    """Whether this is an IP address, and no name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_url(text: str, schemes: Sequence[str]) -> bool:
    """Whether this is a URL of one of these schemes, with a host and a port that there can be."""
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def without_user(url: str) -> str:
    """A URL as it may be shown: without a user and a password that stand before its host."""
    return _USER.sub(r"\1...@", url)

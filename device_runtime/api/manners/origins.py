"""Which names the endpoint answers to, and which web pages may ask it: rules over header texts.

A browser tells the truth about a page in two headers that the page cannot change. `Origin` says
where the page came from. `Host` says under which name the endpoint was found, which is the page's
own name when its owner has pointed that name here afterwards (DNS rebinding).
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

ANY = "*"
"""Among names or origins: all of them."""

LOCALHOST = "localhost"
"""Among the origins: pages served from this machine, on any port."""

_PORTS = {"http": 80, "https": 443}
_AUTHORITY = re.compile(
    r"(?:\[(?P<address>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9_.-]{1,254}))(?::(?P<port>\d{0,5}))?",
    re.ASCII,
)
_ORIGIN = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/]*)", re.ASCII)
_LABEL = re.compile(r"[a-z0-9_-]{1,63}", re.ASCII)
# As URLs have it: a host whose last part is a number is an address, whatever DNS says.
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*", re.ASCII)

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Authority:
    """`host[:port]`: an address, or a name in lower case without the dot of the root."""

    host: str | _Address
    port: int | None

    @property
    def is_local(self) -> bool:
        """Whether this names the machine that the browser runs on."""
        match self.host:
            case str():
                return self.host == LOCALHOST or self.host.endswith("." + LOCALHOST)
            case _:
                return self.host.is_loopback and not _is_mapped(self.host)


def parse_authority(text: str) -> Authority | None:
    """The host and port of a `Host` header, or None where it is none.

    User names, zones, spaces and characters beyond ASCII are none: a browser sends no such thing.
    """
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    port = int(found["port"]) if found["port"] else None
    host = _address(found["address"]) if found["address"] else _name(found["name"])
    if host is None or (port is not None and port > 65535):
        return None
    return Authority(host, port)


def is_host_pattern(text: str) -> bool:
    """Whether this can stand in a list of allowed hosts: a name, `*.` and a name, or `*`."""
    found = parse_authority(text.removeprefix("*."))
    return text == ANY or (found is not None and isinstance(found.host, str) and ":" not in text)


def allows_host(text: str, allowed_hosts: Sequence[str]) -> bool:
    """Whether a `Host` is this machine, an address, or one of these names.

    An address is never a rebound name. `*.example.org` allows all names below example.org.
    """
    if ANY in allowed_hosts:
        return True
    authority = parse_authority(text)
    if authority is None:
        return False
    host = authority.host
    if not isinstance(host, str) or authority.is_local:
        return True
    return any(_matches(host, allowed.lower().rstrip(".")) for allowed in allowed_hosts)


def allows_origin(text: str, own_host: str | None, cors_origins: Sequence[str]) -> bool:
    """Whether pages of this origin may ask: listed ones, and the endpoint's own.

    `own_host` is the `Host` under which the endpoint was asked. Origins that are not `scheme://host`,
    `null` above all, are allowed only where listed as they are.
    """
    if ANY in cors_origins or (text in cors_origins and text != LOCALHOST):
        return True
    found = _ORIGIN.fullmatch(text)
    if found is None:
        return False
    scheme = found["scheme"].lower()
    if f"{scheme}://*" in cors_origins:
        return True
    authority = parse_authority(found["authority"]) if scheme in _PORTS else None
    if authority is None:
        return False
    if LOCALHOST in cors_origins and authority.is_local:
        return True
    own = None if own_host is None else parse_authority(own_host)
    if own is None:
        return False
    default = _PORTS[scheme]
    return (authority.host, authority.port or default) == (own.host, own.port or default)


def _matches(host: str, allowed: str) -> bool:
    if allowed.startswith("*."):
        return host.endswith(allowed[1:])
    return host == allowed


def _address(text: str) -> _Address | None:
    try:
        return ipaddress.IPv6Address(text)
    except ValueError:
        return None


def _name(text: str) -> str | _Address | None:
    labels = text.lower().removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return ipaddress.IPv4Address(text)
        except ValueError:
            return None
    return ".".join(labels) if all(map(_LABEL.fullmatch, labels)) else None


def _is_mapped(address: _Address) -> bool:
    return isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None

"""Which HTTP proxy an address is reached through, by the environment's usual variables."""

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from process.addresses import bracketed
from process.errors import StartError

_VARIABLES = {"wss": ("HTTPS_PROXY", "ALL_PROXY"), "ws": ("HTTP_PROXY", "ALL_PROXY")}

_DEFAULT_PORT = {"http": 80}


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that is asked for a tunnel (CONNECT). `authorization` never shows."""

    host: str
    port: int
    variable: str
    authorization: str | None = field(default=None, repr=False)

    @property
    def where(self) -> str:
        """Its address, as it may be shown."""
        return f"{bracketed(self.host)}:{self.port}"


def proxy_for(url: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for a ws:// or wss:// address, None for a direct connection.

    HTTPS_PROXY is for wss://, HTTP_PROXY for ws://, ALL_PROXY for both, in either case of letters;
    NO_PROXY lists exceptions. This machine is never asked for through a proxy.

    Raises:
        StartError: it is of a kind that cannot be used, or no address at all; the words name the
            variable, and not a password.
    """
    parts = urlsplit(url)
    host, port = (
        (parts.hostname or "").rstrip("."),
        parts.port or (443 if parts.scheme == "wss" else 80),
    )
    for variable in _VARIABLES[parts.scheme]:
        value = _value(variable, environ)
        if value:
            is_direct = _is_loopback(host) or _is_excepted(host, port, _value("NO_PROXY", environ))
            return None if is_direct else _proxy(variable, value)
    return None


def _value(variable: str, environ: Mapping[str, str]) -> str:
    """Lower case first, as curl and Python have it."""
    return (environ.get(variable.lower()) or environ.get(variable) or "").strip()


def _proxy(variable: str, value: str) -> Proxy:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname, parts.port or _DEFAULT_PORT.get(parts.scheme, 0)
    except ValueError as error:
        raise StartError(f"{variable} is not the address of a proxy") from error
    if parts.scheme != "http":
        known = "expected http://; or name the cloud's host in NO_PROXY"
        raise StartError(f"{variable} names a proxy of kind {parts.scheme}://, {known}")
    if not host:
        raise StartError(f"{variable} is not the address of a proxy")
    return Proxy(host, port, variable, _authorization(parts))


def _authorization(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    user, password = unquote(parts.username), unquote(parts.password or "")
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def _is_excepted(host: str, port: int, no_proxy: str) -> bool:
    return any(_matches(entry.lower(), host, port) for entry in no_proxy.replace(",", " ").split())


def _matches(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY covers a host: `*`, a name and all below it, an address or net.

    Any of them may be followed by a port. Source: curl's and Go's rules, which agree on these.
    """
    if entry == "*":
        return True
    address = _address(host)
    if address is not None and "/" in entry:
        return _is_in(address, entry)
    name, _, digits = entry.rpartition(":")
    if digits.isdecimal() and (":" not in name or name.startswith("[")):
        if int(digits) != port:
            return False
        entry = name
    entry = entry.strip("[]")
    if address is not None:
        return address == _address(entry)
    suffix = entry.removeprefix("*").strip(".")
    return bool(suffix) and (host == suffix or host.endswith("." + suffix))


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(host: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_in(address: _Address, net: str) -> bool:
    try:
        return address in ipaddress.ip_network(net, strict=False)
    except ValueError:
        return False

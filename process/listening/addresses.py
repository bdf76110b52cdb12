"""Who a peer is, as far as its address says: behind trusted proxies, what these forwarded."""

import ipaddress
from collections.abc import Iterable, Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LOCAL = "local"
"""A peer without an IP address."""

_HOST_PREFIX = 64
"""One host chooses freely among the addresses of its IPv6 /64."""


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks such as `10.0.0.1` and `10.0.0.0/8`.

    Raises:
        ValueError: one of them is none.
    """
    return tuple(ipaddress.ip_network(text.strip(), strict=False) for text in texts)


def address_key(host: str) -> str:
    """The name under which a peer's address is counted; IPv6 by /64, mapped IPv4 as IPv4."""
    address = _parse(host)
    if address is None:
        return LOCAL
    if isinstance(address, ipaddress.IPv4Address) or address.is_loopback:
        return str(address)
    return str(ipaddress.ip_network((address, _HOST_PREFIX), strict=False))


def is_trusted(host: str, trusted: Sequence[Network]) -> bool:
    """Whether a peer is one of the proxies whose word is taken."""
    address = _parse(host)
    return address is not None and any(address in network for network in trusted)


def client_host(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """The host that a request comes from.

    Args:
        peer: The connection's other end.
        forwarded: The values of `X-Forwarded-For`; each hop appends whom it heard.
        trusted: Proxies that are believed; the first other address from the right is the client.
    """
    host = peer
    hops = [hop for value in forwarded for hop in value.split(",")]
    while hops and is_trusted(host, trusted):
        nearer = _without_port(hops.pop().strip())
        if _parse(nearer) is None:
            break
        host = nearer
    return host


def _parse(host: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _without_port(hop: str) -> str:
    """`192.0.2.1:80` and `[2001:db8::1]:80` as some proxies write them."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop

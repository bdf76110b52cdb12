"""Who a request comes from, behind proxies and without."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from process.listening.addresses import address_key, client_host, parse_networks

TRUSTED = parse_networks(["10.0.0.0/8", "fd00::/8", "192.0.2.1"])

proxies = st.integers(0, (1 << 24) - 1).map(lambda n: str(ipaddress.IPv4Address((10 << 24) + n)))
clients = st.one_of(
    st.ip_addresses(v=4).filter(lambda a: not any(a in n for n in TRUSTED if n.version == 4)),
    st.ip_addresses(v=6).filter(lambda a: a not in TRUSTED[1] and a.ipv4_mapped is None),
).map(str)
texts = st.text(max_size=30).filter(lambda text: "," not in text)


@given(clients, st.lists(texts, max_size=4), st.lists(proxies, max_size=3), proxies)
def test_the_client_is_the_first_from_the_right_that_is_no_proxy(client, lies, chain, peer):
    forwarded = ", ".join([*lies, client, *chain])
    assert client_host(peer, [forwarded], TRUSTED) == client
    assert client_host(peer, forwarded.split(", "), TRUSTED) == client
    with_port = f"[{client}]:443" if ":" in client else f"{client}:443"
    assert client_host(peer, [", ".join([*lies, with_port])], TRUSTED) == client


@given(clients, st.lists(texts, max_size=4))
def test_who_is_not_trusted_forwards_nothing(client, lies):
    assert client_host(client, lies, TRUSTED) == client
    assert client_host(client, lies, ()) == client


@given(st.lists(texts, max_size=4), proxies)
def test_nonsense_from_a_proxy_leaves_an_address_that_can_be_counted(values, peer):
    assert address_key(client_host(peer, values, TRUSTED)) != "local"


@given(st.ip_addresses(v=6), st.integers(0, (1 << 64) - 1))
def test_addresses_of_one_host_in_ipv6_are_one(address, other):
    if address.ipv4_mapped is not None or address.is_loopback:
        return
    sibling = ipaddress.IPv6Address((int(address) >> 64 << 64) | other)
    if sibling.ipv4_mapped is None and not sibling.is_loopback:
        assert address_key(str(address)) == address_key(str(sibling))


def test_some_addresses():
    assert address_key("203.0.113.7") == "203.0.113.7"
    assert address_key("::ffff:203.0.113.7") == "203.0.113.7"
    assert address_key("fe80::1%eth0") == "fe80::/64"
    assert address_key("::1") == "::1"
    assert address_key("") == "local"

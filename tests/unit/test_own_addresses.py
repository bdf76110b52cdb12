"""Where a listener is found: from this machine, from others, and on addresses of both kinds."""

import socket
from dataclasses import dataclass

import pytest

from device_runtime.server import _urls
from process.addresses import far_address, is_url, is_wildcard, near_host, without_user
from process.listening.listener import bind_all

OWN = ["box", "203.0.113.9", "2001:db8::9", "localhost", "127.0.0.1", "::1"]


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "0", "0.0", "::0", "0:0:0:0:0:0:0:0"])
def test_a_listener_on_all_addresses_is_known_however_they_are_written(host: str) -> None:
    assert is_wildcard(host)
    assert near_host(host) == ("::1" if ":" in host else "127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.0.0.7", "gpu-server", "0.example", "0x"])
def test_any_other_host_is_found_as_what_it_is(host: str) -> None:
    assert not is_wildcard(host)
    assert near_host(host) == host


@pytest.mark.parametrize(
    ("host", "own", "expected"),
    [
        ("0.0.0.0", OWN, "203.0.113.9"),
        ("::", OWN, "2001:db8::9"),
        ("::", ["box", "203.0.113.9", "::1"], "203.0.113.9"),
        ("0.0.0.0", ["box", "2001:db8::9", "127.0.0.1"], None),
        ("0.0.0.0", ["box", "localhost", "127.0.0.1", "::1"], None),
    ],
)
def test_others_are_told_an_address_and_no_loopback(
    host: str, own: list[str], expected: str | None
) -> None:
    assert far_address(host, own) == expected


@dataclass
class _Listener:
    name: tuple[str, int]

    def getsockname(self) -> tuple[str, int]:
        return self.name


@pytest.mark.parametrize(
    ("bound", "near", "far"),
    [
        ("127.0.0.1", "http://127.0.0.1:80", None),
        ("10.0.0.7", "http://10.0.0.7:80", None),
        ("::1", "http://[::1]:80", None),
        ("0.0.0.0", "http://127.0.0.1:80", "http://203.0.113.9:80"),
        ("::", "http://[::1]:80", "http://[2001:db8::9]:80"),
    ],
)
def test_a_device_is_given_addresses_that_one_can_connect_to(
    bound: str, near: str, far: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("device_runtime.server.own_names", lambda host: OWN)
    listener: object = _Listener((bound, 80))
    assert _urls(listener) == (near, far)  # type: ignore[arg-type]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no sockets of both kinds here")
def test_all_addresses_of_ipv6_are_those_of_ipv4_as_well() -> None:
    """A cloud on `::` names its IPv4 address to devices, and so has to be there."""
    (listener,) = bind_all("::", 0)
    with listener:
        for near in ("127.0.0.1", "::1"):
            socket.create_connection((near, listener.getsockname()[1]), 5).close()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("wss://gpu-server:7700", "wss://gpu-server:7700"),
        ("wss://who:hush@gpu-server:7700", "wss://...@gpu-server:7700"),
        ("grpc://who:hu@sh/x@[::1]:1", "grpc://...@[::1]:1"),
        ("who:hush@gpu-server", "...@gpu-server"),
        ("gpu-server", "gpu-server"),
        ("wss://[::1", "wss://[::1"),
    ],
)
def test_a_password_in_an_address_is_not_shown(url: str, shown: str) -> None:
    assert without_user(url) == shown


@pytest.mark.parametrize(
    "text", ["", "h", "wss:h", "wss://", "wss://[::1", "wss://h:99999", "wss://h:x", "wss://h:0"]
)
def test_what_is_no_address_is_found_to_be_none(text: str) -> None:
    assert not is_url(text, ("wss",))
    assert not is_url("wss://h:1", ("ws",))
    assert is_url("wss://[::1]:7700/v1/link", ("wss",))


def test_an_address_of_one_link_is_listened_on_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `fe80::1%eth0` of a cable between two machines: without its link no system knows it."""
    found = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 7700, 0, 3))
    asked = []

    def create_server(where: object, **options: object) -> socket.socket:
        asked.append(where)
        return socket.socket()

    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **more: [found])
    monkeypatch.setattr(socket, "create_server", create_server)
    for listener in bind_all("fe80::1%eth0", 7700):
        listener.close()
    assert asked == [("fe80::1", 7700, 0, 3)]

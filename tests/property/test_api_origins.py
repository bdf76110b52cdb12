"""Which hosts and origins are let in, against a rule built the other way round."""

import ipaddress
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.api.manners.origins import (
    allows_host,
    allows_origin,
    is_host_pattern,
    parse_authority,
)

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
ports = st.one_of(st.just(""), st.integers(0, 65535).map(lambda port: f":{port}"))
dots = st.sampled_from(["", "."])


@st.composite
def in_any_case(draw, names):
    return "".join(draw(st.sampled_from([c.lower(), c.upper()])) for c in draw(names))


@st.composite
def names_below(draw, parent):
    return ".".join([*draw(st.lists(labels, max_size=3)), parent])


# A browser sends what it has resolved: a last part that is a number makes an address of it.
foreign_names = (
    st.lists(labels, min_size=1, max_size=4)
    .map(".".join)
    .filter(
        lambda name: (
            name.rpartition(".")[2] != "localhost"
            and not name.rpartition(".")[2].isdigit()
            and not name.rpartition(".")[2].startswith("0x")
        )
    )
)
local_names = in_any_case(names_below("localhost"))
loopback = st.one_of(
    st.integers(0, (1 << 24) - 1).map(lambda low: str(ipaddress.IPv4Address((127 << 24) + low))),
    st.just("[::1]"),
)
addresses = st.one_of(
    st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(lambda address: f"[{address}]")
)
foreign_addresses = addresses.filter(
    lambda text: not ipaddress.ip_address(text.strip("[]")).is_loopback
)
schemes = st.sampled_from(["http", "https"])


@given(name=local_names, dot=dots, port=ports)
def test_this_machine_may_be_asked_under_its_names(name, dot, port):
    assert allows_host(name + dot + port, [])
    assert allows_origin(f"http://{name}{dot}{port}", None, ["localhost"])


@given(address=addresses, port=ports)
def test_an_address_is_no_rebound_name(address, port):
    assert allows_host(address + port, [])


@given(name=foreign_names, dot=dots, port=ports)
def test_other_names_only_where_listed(name, dot, port):
    assert not allows_host(name + dot + port, [])
    assert allows_host(name.upper() + dot + port, [name])
    assert allows_host("a." + name + port, ["*." + name])
    assert not allows_host("a" + name + port, ["*." + name])
    assert allows_host(name, ["*"])


@given(scheme=schemes, host=loopback, port=ports)
def test_pages_of_this_machine_may_ask(scheme, host, port):
    assert allows_origin(f"{scheme}://{host}{port}", None, ["localhost"])
    assert not allows_origin(f"{scheme}://{host}{port}", None, [])


@given(scheme=schemes, host=foreign_names | foreign_addresses, port=ports, own=loopback)
def test_other_pages_only_where_listed_or_the_endpoints_own(scheme, host, port, own):
    origin = f"{scheme}://{host}{port}"
    assert not allows_origin(origin, own + port, ["localhost"])
    assert allows_origin(origin, own, [origin])
    assert allows_origin(origin, own, ["*"])
    assert allows_origin(origin, host + port, [])


tails = st.sampled_from(
    [
        ".evil",
        "@evil.example",
        ":1@evil.example",
        "/",
        "/a",
        "?",
        "#",
        "\\",
        " ",
        "\t",
        ":",
        ":99999",
        ":-1",
        ":x",
        "%2eevil",
        "\u3002evil",
        "\x00",
        ",evil",
    ]
)


@given(host=st.one_of(st.just("localhost"), loopback), tail=tails, scheme=schemes)
def test_what_only_begins_like_this_machine_is_foreign(host, tail, scheme):
    is_port = tail == ":"
    assert allows_host(host + tail, []) == is_port
    assert allows_origin(f"{scheme}://{host}{tail}", None, ["localhost"]) == is_port


@given(text=st.text(max_size=30) | st.from_regex(r"[a-zL0-9.:\[\]@-]{0,30}", fullmatch=True))
def test_a_host_let_in_is_read_the_same_way_by_others(text):
    if not allows_host(text, []):
        return
    parts = urlsplit("http://" + text)
    assert parts.netloc == text
    assert "@" not in text
    host = (parts.hostname or "").removesuffix(".")
    if host != "localhost" and not host.endswith(".localhost"):
        ipaddress.ip_address(host)


@pytest.mark.parametrize(
    "origin",
    ["null", "", "file://", "file://localhost", "http://[::1].evil", "app://localhost",
     "localhost", "tauri://localhost", "http://", "http://[", "http:localhost", "//localhost",
     " http://localhost",
     "http://localhost http://localhost", "ws://localhost", "http://0.0.0.0", "http://127.1",
     "http://localhost.evil", "http://evil-localhost", "http://[::ffff:127.0.0.1]"],
)  # fmt: skip
def test_origins_that_are_not_pages_of_this_machine(origin):
    assert not allows_origin(origin, "127.0.0.1:8000", ["localhost"])
    assert allows_origin(origin, "127.0.0.1:8000", [origin]) == (origin != "localhost")


def test_all_windows_of_an_application_can_be_listed():
    assert allows_origin("vscode-webview://1a2b", None, ["vscode-webview://*"])
    assert not allows_origin("vscode-webview", None, ["vscode-webview://*"])


def test_an_own_page_has_the_scheme_s_port():
    assert allows_origin("https://hat.example", "hat.example", [])
    assert allows_origin("https://hat.example", "hat.example:443", [])
    assert not allows_origin("https://hat.example", "hat.example:8000", [])
    assert not allows_origin("http://hat.example:8001", "hat.example:8000", [])


@pytest.mark.parametrize("text", ["", "a b", "user@localhost", "[fe80::1%eth0]", "\uff4cocalhost",
                                  "a..b", "[1]", "[::1", "::1", "1.2.3", "256.1.1.1", "0x7f.1",
                                  "a:b:c"])  # fmt: skip
def test_what_is_no_host(text):
    assert parse_authority(text) is None


@given(name=foreign_names)
def test_a_name_that_can_be_listed_lets_that_name_in(name):
    assert is_host_pattern(name)
    assert is_host_pattern("*." + name)
    assert not is_host_pattern("http://" + name)
    assert not is_host_pattern(name + ":80")
    assert not is_host_pattern(name + "/")


def test_any_name_can_be_listed_and_an_address_need_not_be():
    assert is_host_pattern("*")
    assert not is_host_pattern("127.0.0.1")
    assert not is_host_pattern("")

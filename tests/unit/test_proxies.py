"""Which proxy an address is reached through, and which is refused with a word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.link.proxies import Proxy, proxy_for
from process.errors import StartError

PROXY = {"HTTPS_PROXY": "http://proxy.example:3128"}


def found(url: str, environ: dict[str, str]) -> str | None:
    proxy = proxy_for(url, environ)
    return None if proxy is None else proxy.where


@pytest.mark.parametrize(
    ("url", "environ", "where"),
    [
        ("wss://cloud.example", {}, None),
        ("wss://cloud.example", PROXY, "proxy.example:3128"),
        ("ws://cloud.example", PROXY, None),
        ("ws://cloud.example", {"HTTP_PROXY": "http://proxy.example"}, "proxy.example:80"),
        ("ws://cloud.example", {"http_proxy": "proxy.example:8080"}, "proxy.example:8080"),
        ("wss://cloud.example", {"ALL_PROXY": "http://all:1"}, "all:1"),
        ("ws://cloud.example", {"all_proxy": "http://all:1"}, "all:1"),
        ("wss://cloud.example", {**PROXY, "ALL_PROXY": "http://all:1"}, "proxy.example:3128"),
        ("wss://cloud.example", {**PROXY, "https_proxy": "http://lower:2"}, "lower:2"),
        ("wss://cloud.example", {"HTTPS_PROXY": "  "}, None),
        ("wss://cloud.example", {"HTTPS_PROXY": "http://[fd00::1]:3128"}, "[fd00::1]:3128"),
    ],
)
def test_the_usual_variables_name_the_proxy(
    url: str, environ: dict[str, str], where: str | None
) -> None:
    assert found(url, environ) == where


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", "a.localhost", "127.0.0.1", "127.9.9.9", "[::1]", "0.0.0.0"],
)
def test_this_machine_is_never_asked_for_through_a_proxy(host: str) -> None:
    environ = {"ALL_PROXY": "http://all:1", "HTTPS_PROXY": "socks5://s:1"}
    assert found(f"wss://{host}:7700", environ) is None


@pytest.mark.parametrize(
    ("host", "no_proxy", "is_direct"),
    [
        ("cloud.example", "*", True),
        ("cloud.example", "cloud.example", True),
        ("cloud.example", "CLOUD.example", True),
        ("a.cloud.example", "cloud.example", True),
        ("a.cloud.example", ".cloud.example", True),
        ("a.cloud.example", "*.cloud.example", True),
        ("acloud.example", "cloud.example", False),
        ("cloud.example.org", "cloud.example", False),
        ("cloud.example:7700", "cloud.example:7700", True),
        ("cloud.example:7700", "cloud.example:7701", False),
        ("cloud.example", "cloud.example:443", True),
        ("cloud.example", "other, cloud.example", True),
        ("cloud.example", "other cloud.example", True),
        ("cloud.example", "", False),
        ("cloud.example", ",", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:7700", "10.1.2.3:7700", True),
        ("10.1.2.3", "10.1.2", False),
        ("10.1.2.3", "3", False),
        ("[fd00::5]", "fd00::/8", True),
        ("[fd00::5]", "fd00::5", True),
        ("[fd00::5]:7700", "[fd00::5]:7700", True),
        ("[fd00::5]:7700", "[fd00::5]:7701", False),
        ("[fd00::5]", "10.0.0.0/8", False),
        ("[::ffff:10.1.2.3]", "10.0.0.0/8", True),
        ("cloud.example", "10.0.0.0/8", False),
        ("10.1.2.3", "10.0.0.0/99", False),
    ],
)
def test_exceptions_are_names_addresses_nets_and_ports(
    host: str, no_proxy: str, is_direct: bool
) -> None:
    assert (found(f"wss://{host}", {**PROXY, "NO_PROXY": no_proxy}) is None) is is_direct


@given(
    no_proxy=st.text(max_size=40),
    host=st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8}){0,2}", fullmatch=True),
)
def test_nonsense_among_the_exceptions_is_ignored(no_proxy: str, host: str) -> None:
    proxy_for(f"wss://{host}", {**PROXY, "NO_PROXY": no_proxy})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("socks5://proxy:1080", "HTTPS_PROXY names a proxy of kind socks5://"),
        ("https://proxy:443", "of kind https://"),
        ("http://", "is not the address of a proxy"),
        ("http://proxy:99999", "is not the address of a proxy"),
        ("http://user:hunter2@proxy:x", "is not the address of a proxy"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_with_a_word(value: str, words: str) -> None:
    with pytest.raises(StartError, match=words) as caught:
        proxy_for("wss://cloud.example", {"HTTPS_PROXY": value})
    assert "hunter2" not in str(caught.value)
    assert found("wss://cloud.example", {"HTTPS_PROXY": value, "NO_PROXY": "cloud.example"}) is None


def test_a_password_is_used_and_never_shown() -> None:
    proxy = proxy_for("wss://cloud.example", {"HTTPS_PROXY": "http://me:p%40ss@proxy:3128"})
    assert isinstance(proxy, Proxy)
    assert proxy.authorization == "Basic bWU6cEBzcw=="
    assert "p@ss" not in repr(proxy)
    assert "bWU6" not in repr(proxy)
    assert proxy.where == "proxy:3128"

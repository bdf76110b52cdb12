"""What devices are given as a cloud's host is something that they can connect to."""

import pytest

from cloud_server.reached import reached_at
from process.own_names import own_names

EVERYWHERE = ["gpu-7", "203.0.113.9", "2001:db8::9", "localhost", "127.0.0.1", "::1"]


@pytest.mark.parametrize(
    ("host", "own", "certified", "is_pinned", "expected"),
    [
        # Without a certificate, or where the key alone counts.
        ("0.0.0.0", EVERYWHERE, None, False, "203.0.113.9"),
        ("::", EVERYWHERE, None, False, "203.0.113.9"),
        ("0.0.0.0", EVERYWHERE, EVERYWHERE, True, "203.0.113.9"),
        ("0.0.0.0", ["llm.example.org", *EVERYWHERE], EVERYWHERE, True, "llm.example.org"),
        ("0.0.0.0", ["gpu-7", "localhost", "127.0.0.1"], None, False, "gpu-7"),
        ("0.0.0.0", [], None, False, "0.0.0.0"),
        ("gpu-server", own_names("gpu-server"), None, False, "gpu-server"),
        ("127.0.0.1", own_names("127.0.0.1"), None, False, "127.0.0.1"),
        ("10.0.0.7", own_names("10.0.0.7"), ["10.0.0.7"], True, "10.0.0.7"),
        # A certificate that devices hold against the name they were given.
        ("0.0.0.0", EVERYWHERE, ["llm.example.org"], False, "llm.example.org"),
        ("0.0.0.0", EVERYWHERE, ["localhost", "llm.example.org"], False, "llm.example.org"),
        ("0.0.0.0", EVERYWHERE, ["llm.example.org", "203.0.113.9"], False, "203.0.113.9"),
        ("0.0.0.0", EVERYWHERE, ["llm.example.org", "GPU-7"], False, "gpu-7"),
        ("10.0.0.7", own_names("10.0.0.7"), ["llm.example.org"], False, "llm.example.org"),
        ("a.example.org", own_names("a.example.org"), ["*.example.org"], False, "a.example.org"),
        ("0.0.0.0", EVERYWHERE, ["*.example.org"], False, "NAME.example.org"),
        ("a.b.example.org", ["a.b.example.org"], ["*.example.org"], False, "NAME.example.org"),
        ("127.0.0.1", own_names("127.0.0.1"), ["localhost"], False, "localhost"),
        ("0.0.0.0", EVERYWHERE, [], False, "203.0.113.9"),
    ],
)  # fmt: skip
def test_the_host_that_devices_are_given(
    host: str, own: list[str], certified: list[str] | None, is_pinned: bool, expected: str
) -> None:
    assert reached_at(host, own, certified, is_pinned=is_pinned) == expected

"""What would be asked of a kernel that has netem. None had one where these were written."""

import pytest

from bench.link.namespaces import End
from bench.link.netem import commands, reason_against_netem
from bench.link.spec import LinkSpec, parse_link_spec

_CLOUD = End("/proc/7/fd/3", "link1", "10.78.1.1", "10.78.1.0/30")
_DEVICE = End("/proc/7/fd/5", "link0", "10.78.1.2", "10.78.1.0/30")
_AT_CLOUD, _AT_DEVICE = "nsenter --net=/proc/7/fd/3", "nsenter --net=/proc/7/fd/5"


def _lines(spec: LinkSpec) -> list[str]:
    return [" ".join(command) for command in commands(spec, _CLOUD, _DEVICE)]


def _asked(text: str) -> list[str]:
    """The words of uplink and downlink after `netem`."""
    lines = _lines(parse_link_spec(text))
    ends = (f"{_AT_DEVICE} tc qdisc add dev link0", f"{_AT_CLOUD} tc qdisc add dev link1")
    prefixes = [f"{end} root netem " for end in ends]
    return [line.removeprefix(p) for p in prefixes for line in lines if line.startswith(p)]


def test_each_direction_is_shaped_where_it_leaves() -> None:
    up, down = _asked("up=20mbit,down=50mbit,rtt=40ms")
    assert up == "limit 100 delay 20000us rate 20000000bit"
    assert down == "limit 248 delay 20000us rate 50000000bit"


def test_jitter_only_adds_to_the_delay() -> None:
    up, down = _asked("rtt=40ms,jitter=2ms,loss=0.5%")
    assert up == down == "limit 100000 delay 21000us 1000us loss 0.500000%"


def test_bursts_are_as_many_packets_as_the_rate_sends_meanwhile() -> None:
    up, down = _asked("up=12.112mbit,down=24.224mbit,loss=20%,burst=10ms")
    assert " loss gemodel 2.500000% 10.000000% rate " in up
    assert " loss gemodel 1.250000% 5.000000% rate " in down


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("up=1mbit,down=1mbit,loss=1%,burst=30ms,move=5s", None),
        ("up=1mbit,loss=1%,burst=30ms", "netem counts bursts in packets, which takes a rate"),
        ("reorder=1%", "netem lets packets arrive early, not late"),
        ("trace=oboe-0", "netem cannot follow a trace"),
    ],
)
def test_what_netem_has_no_words_for_is_said(text: str, reason: str | None) -> None:
    found = reason_against_netem(parse_link_spec(text))
    assert found is None if reason is None else str(found).startswith(reason)


def test_the_ends_are_a_veth_pair_that_joins_no_segments() -> None:
    made, *rest = _lines(LinkSpec(delay_s=0.01))
    pair = "link1 type veth peer name link0 netns /proc/7/fd/5"
    assert made == f"{_AT_CLOUD} ip link add {pair}"
    assert f"{_AT_DEVICE} ip link set dev link0 gso_max_segs 1" in rest
    assert f"{_AT_CLOUD} ip link set dev link1 gso_max_segs 1" in rest

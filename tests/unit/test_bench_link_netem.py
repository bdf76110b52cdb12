"""What would be asked of a kernel that has netem. None had one where these were written."""

import pytest

from bench.link.namespaces import new_pairs
from bench.link.netem import commands
from bench.link.shaped_link import LinkError
from bench.link.spec import LinkSpec, parse_link_spec


def _asked(text: str) -> tuple[str, str]:
    """The words of uplink and downlink after `netem`."""
    (pair,) = new_pairs(1)
    spec = parse_link_spec(text)
    lines = [" ".join(command) for command in commands(spec, pair)]
    prefix = f"tc -n {pair.device.namespace} qdisc add dev link0 root netem "
    up = next(line.removeprefix(prefix) for line in lines if line.startswith(prefix))
    prefix = f"tc -n {pair.cloud.namespace} qdisc add dev link0 root netem "
    down = next(line.removeprefix(prefix) for line in lines if line.startswith(prefix))
    return up, down


def test_each_direction_is_shaped_where_it_leaves() -> None:
    up, down = _asked("up=20mbit,down=50mbit,rtt=40ms")
    assert up == "limit 100 delay 20000us rate 20000000bit"
    assert down == "limit 248 delay 20000us rate 50000000bit"


def test_jitter_only_adds_to_the_delay() -> None:
    up, down = _asked("rtt=40ms,jitter=2ms,loss=0.5%")
    assert up == down == "limit 100000 delay 21000us 1000us loss 0.500000%"


def test_the_ends_are_a_veth_pair_that_joins_no_segments() -> None:
    pair = new_pairs(2)[1]
    made, *rest = commands(LinkSpec(delay_s=0.01), pair)
    cloud, device = pair.cloud.namespace, pair.device.namespace
    expected = f"ip -n {cloud} link add link1 type veth peer name link0 netns {device}"
    assert " ".join(made) == expected
    assert [" ".join(command) for command in rest[:2]] == [
        f"ip -n {cloud} link set dev link1 gso_max_segs 1",
        f"ip -n {device} link set dev link0 gso_max_segs 1",
    ]


def test_a_trace_is_refused() -> None:
    with pytest.raises(LinkError, match="netem cannot follow a trace"):
        commands(LinkSpec(trace="oboe-0"), new_pairs(1)[0])

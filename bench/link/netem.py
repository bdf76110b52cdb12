"""The kernel's own emulator, where there is one: veth pairs with `netem` at both ends.

These commands have never been run with a kernel that has netem; their tests read them.
"""

import math
import os

from bench.link.namespaces import Pair, run
from bench.link.shaped_link import LinkError
from bench.link.shaper import Direction, directions
from bench.link.spec import MTU_BYTES, LinkSpec

_FRAME_BYTES = MTU_BYTES + 14
_NO_LIMIT_PACKETS = 100_000


def reason_against_netem() -> str | None:
    """Why the kernel cannot shape links here; None: it can. Needs namespaces to try in."""
    probe = f"hat-link-{os.getpid()}-{os.urandom(3).hex()}-probe"
    try:
        run(["ip", "netns", "add", probe])
    except LinkError as error:
        return str(error)
    try:
        run(["tc", "-n", probe, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"])
    except LinkError as error:
        return str(error)
    finally:
        run(["ip", "netns", "delete", probe])
    return None


def commands(spec: LinkSpec, pair: Pair) -> list[list[str]]:
    """What makes one link between two namespaces that exist.

    Raises:
        LinkError: the spec has a trace, which netem cannot follow.
    """
    if spec.trace is not None:
        raise LinkError("netem cannot follow a trace; expected kind tap or tcp")
    cloud, device = pair.cloud, pair.device
    up, down = directions(spec)
    made = ["ip", "-n", cloud.namespace, "link", "add", cloud.interface, "type", "veth"]
    made += ["peer", "name", device.interface, "netns", device.namespace]
    one_segment = [
        # A veth passes up to 64 kB on as one packet, which netem would lose or delay whole.
        ["ip", "-n", end.namespace, "link", "set", "dev", end.interface, "gso_max_segs", "1"]
        for end in (cloud, device)
    ]
    shaped = [
        ["tc", "-n", end.namespace, "qdisc", "add", "dev", end.interface, "root", *_netem(way)]
        for end, way in ((device, up), (cloud, down))
    ]
    return [made, *one_segment, *shaped]


def _netem(direction: Direction) -> list[str]:
    words = ["netem", "limit", str(_limit_packets(direction))]
    if direction.delay_s or direction.jitter_s:
        # netem's jitter goes both ways from its delay; ours only up.
        half_s = direction.jitter_s / 2
        words += ["delay", _microseconds(direction.delay_s + half_s)]
        words += [_microseconds(half_s)] if half_s else []
    if direction.loss:
        words += ["loss", f"{direction.loss:.6%}"]
    if not math.isinf(direction.rate.mean_bytes_per_s):
        words += ["rate", f"{round(direction.rate.mean_bytes_per_s * 8)}bit"]
    return words


def _limit_packets(direction: Direction) -> int:
    """netem's limit counts what waits and what is on its way."""
    if math.isinf(direction.queue_bytes):
        return _NO_LIMIT_PACKETS
    way_s = direction.delay_s + direction.jitter_s
    num_bytes = direction.queue_bytes + direction.rate.mean_bytes_per_s * way_s
    return math.ceil(num_bytes / _FRAME_BYTES)


def _microseconds(delay_s: float) -> str:
    return f"{round(delay_s * 1e6)}us"

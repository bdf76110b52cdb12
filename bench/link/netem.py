"""Commands for the kernel's own emulator, where there is one: veth pairs, `netem` at both ends.

Those of `tc` have never been run with a kernel that has netem; their tests read them.
"""

import math

from bench.link.namespaces import End
from bench.link.shaper import Direction, directions
from bench.link.spec import FRAME_BYTES, LinkSpec

_NO_LIMIT_PACKETS = 100_000


def commands(spec: LinkSpec, cloud: End, device: End) -> list[list[str]]:
    """What makes one link, without a trace, between two namespaces that exist."""
    up, down = directions(spec)
    pair = ("type", "veth", "peer", "name", device.interface, "netns", device.namespace)
    made = [cloud.command("ip", "link", "add", cloud.interface, *pair)]
    for end, way in ((device, up), (cloud, down)):
        dev = ("dev", end.interface)
        made += [
            # A veth passes up to 64 kB on as one packet, which netem would lose or delay whole.
            end.command("ip", "link", "set", *dev, "gso_max_segs", "1"),
            end.command("tc", "qdisc", "add", *dev, "root", "netem", *_words(way)),
        ]
    return made


def _words(direction: Direction) -> list[str]:
    words = ["limit", str(_limit_packets(direction))]
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
    return math.ceil(num_bytes / FRAME_BYTES)


def _microseconds(delay_s: float) -> str:
    return f"{round(delay_s * 1e6)}us"

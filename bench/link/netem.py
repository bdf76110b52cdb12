"""Commands for the kernel's own emulator, where there is one: veth pairs, `netem` at both ends.

Those of `tc` have never been run with a kernel that has netem; their tests read them. netem counts
bursts in packets: as many as the link sends in the asked time. `reason_against_netem` says what it
cannot do.
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


def reason_against_netem(spec: LinkSpec) -> str | None:
    """What of a link netem has no words for; None: it can be as asked."""
    if spec.trace is not None:
        return "netem cannot follow a trace"
    if spec.reorder:
        return "netem lets packets arrive early, not late"
    if spec.burst_s and None in (spec.uplink_bytes_per_s, spec.downlink_bytes_per_s):
        return "netem counts bursts in packets, which takes a rate each way"
    return None


def _words(direction: Direction) -> list[str]:
    words = ["limit", str(_limit_packets(direction))]
    if direction.delay_s or direction.jitter_s:
        # netem's jitter goes both ways from its delay; ours only up.
        half_s = direction.jitter_s / 2
        words += ["delay", _microseconds(direction.delay_s + half_s)]
        words += [_microseconds(half_s)] if half_s else []
    if direction.burst_s:
        words += ["loss", "gemodel", *_burst_chances(direction)]
    elif direction.loss:
        words += ["loss", f"{direction.loss:.6%}"]
    if not math.isinf(direction.rate.mean_bytes_per_s):
        words += ["rate", f"{round(direction.rate.mean_bytes_per_s * 8)}bit"]
    return words


def _burst_chances(direction: Direction) -> tuple[str, str]:
    """With each packet: of a burst's begin, and of its end."""
    num_packets = max(1.0, direction.burst_s * direction.rate.mean_bytes_per_s / FRAME_BYTES)
    begin = direction.loss / (1 - direction.loss) / num_packets
    return f"{min(1.0, begin):.6%}", f"{1 / num_packets:.6%}"


def _limit_packets(direction: Direction) -> int:
    """netem's limit counts what waits and what is on its way."""
    if math.isinf(direction.queue_bytes):
        return _NO_LIMIT_PACKETS
    way_s = direction.delay_s + direction.jitter_s
    num_bytes = direction.queue_bytes + direction.rate.mean_bytes_per_s * way_s
    return math.ceil(num_bytes / FRAME_BYTES)


def _microseconds(delay_s: float) -> str:
    return f"{round(delay_s * 1e6)}us"

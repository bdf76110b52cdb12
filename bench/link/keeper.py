"""The process behind links in namespaces: relays their packets, and cleans up after them.

Started by `opening.py` with its orders as one line of JSON on standard input, which then stays
open. Each further line asks for the figures until now. Once it closes, because the links are closed
or their owner died in whatever way, the keeper removes the namespaces and ends. It is in a session
of its own, so Ctrl-C does not end it first.
"""

import contextlib
import gc
import os
import sys
from pathlib import Path

import msgspec

from bench.link.namespaces import End, Pair, enter, namespaces_of, remove
from bench.link.shaper import shaper_pairs
from bench.link.spec import LinkSpec
from bench.link.tap_relay import Lane, TapRelay, open_tap

READY = "ready"

_LINE_BYTES = 64

_SETTINGS = (
    # Nothing but the links' own traffic shall cross them.
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    # A connection shall not begin with what an earlier one learned.
    ("net/ipv4/tcp_no_metrics_save", "1"),
)


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a keeper shall keep. `parent` is its owner's process id; without `has_taps` the kernel
    shapes the links and the keeper only cleans up."""

    pairs: list[Pair]
    spec: LinkSpec
    seed: int
    parent: int
    has_taps: bool


def main() -> None:
    """Keep links until standard input closes."""
    orders = msgspec.json.decode(sys.stdin.readline(), type=Orders)
    namespaces = namespaces_of(orders.pairs)
    try:
        for namespace in namespaces:
            enter(namespace)
            _set_up_namespace()
        lanes = _lanes(orders) if orders.has_taps else []
        _run_before_others()
        relay = TapRelay(lanes, sys.stdin.fileno())
        print(READY, flush=True)
        relay.run(orders.parent)
        while os.read(sys.stdin.fileno(), _LINE_BYTES):
            print(msgspec.json.encode(relay.figures()).decode(), flush=True)
            relay.run(orders.parent)
    finally:
        remove(namespaces)


def _set_up_namespace() -> None:
    for name, value in _SETTINGS:
        with contextlib.suppress(OSError):  # a kernel without it has nothing to set
            Path("/proc/sys", name).write_text(value)


def _lanes(orders: Orders) -> list[Lane]:
    lanes: list[Lane] = []
    shapers = shaper_pairs(orders.spec, len(orders.pairs), orders.seed)
    for pair, (up, down) in zip(orders.pairs, shapers, strict=True):
        cloud, device = _tap(pair.cloud), _tap(pair.device)
        lanes += [Lane(device, cloud, up), Lane(cloud, device, down)]
    return lanes


def _tap(end: End) -> int:
    enter(end.namespace)
    return open_tap(end.interface)


def _run_before_others() -> None:
    """Be scheduled at once when a packet is due, whatever the cloud and the devices compute."""
    gc.disable()
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


if __name__ == "__main__":
    main()

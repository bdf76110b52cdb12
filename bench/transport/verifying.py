"""Verifications of our own device beside the upload of a prompt, by its number of connections."""

import json
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import msgspec

from bench.link.opening import open_link
from bench.link.shaped_link import LinkKind
from bench.link.spec import LinkSpec, link_text
from bench.machine import machine_lines
from bench.measures import percentile
from bench.transport.places import device_arm, running

IDLE = "idle link"
_ARMS = {IDLE: ("1", False), "one": ("1", True), "two": ("2", True), "auto": ("auto", True)}
"""The connections of each, and whether a prompt goes up meanwhile."""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """The round trips of verifications over one link, of all tries."""

    link: str
    arm: str
    seconds: tuple[float, ...]


class Verifying(msgspec.Struct, frozen=True, kw_only=True):
    """A result, as it is kept."""

    machine: tuple[str, ...]
    verified: tuple[Verified, ...]


def verifying(
    links: Sequence[LinkSpec], seconds: float, num_tries: int, say: Callable[[str], None]
) -> Verifying:
    """Each arm in turn, `num_tries` times, on a link of its own with the same losses.

    Raises:
        LinkError: no links between namespaces can be opened here, or a program ended.
    """
    verified = []
    for spec in links:
        found: dict[str, list[float]] = {name: [] for name in _ARMS}
        for seed in range(num_tries):
            for name, (connections, has_bulk) in _ARMS.items():
                with (
                    open_link(spec, seed, kind=LinkKind.TAP) as link,
                    running(device_arm(name, connections), link) as sender,
                ):
                    words = f"urgent {seconds} {'yes' if has_bulk else 'no'}"
                    found[name] += json.loads(sender.ask(words))
                say(f"{link_text(spec)}, {name}: {len(found[name])} verifications")
        verified += [
            Verified(link=link_text(spec), arm=name, seconds=tuple(times))
            for name, times in found.items()
        ]
    return Verifying(machine=tuple(machine_lines()), verified=tuple(verified))


def table(result: Verifying) -> Iterator[str]:
    """Medians and 99th percentiles, in ms, and beside the idle link's."""
    yield "| link | connections | p50, ms | p99, ms | p99 / idle link's |"
    yield "|---|---|---|---|---|"
    idle_s = {
        each.link: percentile(each.seconds, 99) for each in result.verified if each.arm == IDLE
    }
    for each in result.verified:
        p99_s = percentile(each.seconds, 99)
        middle, share = 1e3 * median(each.seconds), p99_s / idle_s[each.link]
        yield f"| {each.link} | {each.arm} | {middle:.0f} | {1e3 * p99_s:.0f} | {share:.2f} |"

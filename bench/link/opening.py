"""Opens links of the best kind that this machine allows."""

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.link import netem
from bench.link.keeper import READY, Orders
from bench.link.namespaces import (
    Pair,
    bring_up,
    inside,
    namespaces_of,
    new_pairs,
    reason_against_namespaces,
    reason_against_tap,
    remove,
    run,
    sweep,
)
from bench.link.shaped_link import LinkError, LinkKind, RelayFigures, ShapedLink, no_figures
from bench.link.spec import LinkSpec
from bench.link.tcp_relay import open_tcp_relays
from bench.link.traces import load_trace

_ALGORITHMS = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
_CONGESTION = ("cubic", "reno")
"""Most machines' default, and what every kernel has. Some have bbr by default, which keeps more
or less in the buffer as it takes the link's rate to be."""

_END_S = 20.0


@contextmanager
def open_link(
    spec: LinkSpec, seed: int = 0, *, kind: LinkKind | None = None
) -> Iterator[ShapedLink]:
    """One link, closed with the block.

    Args:
        kind: None takes netem if the kernel has it, else the userspace relay between network
            namespaces, else (not root, or no TUN device) the TCP relay. Not shaped: loopback.

    Raises:
        LinkError: it cannot be opened as asked.
        LinkSpecError: the trace does not exist.
    """
    with open_links(spec, 1, seed, kind=kind) as (link,):
        yield link


@contextmanager
def open_links(
    spec: LinkSpec, num_links: int, seed: int = 0, *, kind: LinkKind | None = None
) -> Iterator[tuple[ShapedLink, ...]]:
    """Several equal links, each with its own device's end, and one cloud's end for all of them."""
    if spec.trace is not None:
        load_trace(spec.trace)
    kind = best_kind(spec) if kind is None else LinkKind(kind)
    match kind:
        case LinkKind.LOOPBACK:
            if spec.is_shaped:
                raise LinkError("a link of kind loopback cannot be shaped")
            here = "127.0.0.1"
            yield (ShapedLink(kind, spec, here, here, here),) * num_links
        case LinkKind.TCP:
            with open_tcp_relays(spec, num_links, seed) as links:
                yield links
        case LinkKind.TAP | LinkKind.NETEM:
            with _open_namespaces(spec, num_links, seed, kind) as links:
                yield links


def best_kind(spec: LinkSpec) -> LinkKind:
    """The most faithful kind of link that works here."""
    if not spec.is_shaped:
        return LinkKind.LOOPBACK
    if reason_against_namespaces() is not None:
        return LinkKind.TCP
    if spec.trace is None and netem.reason_against_netem() is None:
        return LinkKind.NETEM
    return LinkKind.TCP if reason_against_tap() is not None else LinkKind.TAP


@contextmanager
def _open_namespaces(
    spec: LinkSpec, num_links: int, seed: int, kind: LinkKind
) -> Iterator[tuple[ShapedLink, ...]]:
    reason = reason_against_tap() if kind is LinkKind.TAP else reason_against_namespaces()
    if reason is not None:
        raise LinkError(f"a link of kind {kind} does not work here: {reason}")
    sweep()
    pairs = new_pairs(num_links)
    namespaces = namespaces_of(pairs)
    try:
        for namespace in namespaces:
            run(["ip", "netns", "add", namespace])
        has_taps = kind is LinkKind.TAP
        orders = Orders(
            pairs=list(pairs), spec=spec, seed=seed, parent=os.getpid(), has_taps=has_taps
        )
        with _keeper(orders) as figures:
            _join(spec, pairs, kind)
            yield tuple(_link(spec, pair, kind, figures) for pair in pairs)
    finally:
        remove(namespaces)  # the keeper has, unless it did not start or was killed


def _join(spec: LinkSpec, pairs: Sequence[Pair], kind: LinkKind) -> None:
    known = _ALGORITHMS.read_text().split() if _ALGORITHMS.exists() else []
    congestion = next((name for name in _CONGESTION if name in known), _CONGESTION[-1])
    for pair in pairs:
        if kind is LinkKind.NETEM:
            for command in netem.commands(spec, pair):
                run(command)
        bring_up(pair.cloud, congestion)
        bring_up(pair.device, congestion)


def _link(
    spec: LinkSpec, pair: Pair, kind: LinkKind, figures: Callable[[], RelayFigures]
) -> ShapedLink:
    return ShapedLink(
        kind,
        spec,
        cloud_host=pair.cloud.address,
        device_host=pair.device.address,
        bind_host="0.0.0.0",
        cloud_prefix=inside(pair.cloud.namespace),
        device_prefix=inside(pair.device.namespace),
        figures=figures if kind is LinkKind.TAP else no_figures,
    )


@contextmanager
def _keeper(orders: Orders) -> Iterator[Callable[[], RelayFigures]]:
    """A running keeper's figures; it removes the namespaces once the block or this process ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.link.keeper"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it says why on standard error
            process.stdin.write(msgspec.json.encode(orders) + b"\n")
            process.stdin.flush()
        if process.stdout.readline().strip() != READY.encode():
            _, complaint = process.communicate()
            last = complaint.decode(errors="replace").strip().splitlines()[-1:]
            raise LinkError(f"the link's relay did not start: {''.join(last)}")
        yield functools.partial(_figures, process)
        if process.poll() is not None:
            raise LinkError("the link's relay ended before the link was closed")
    finally:
        _end(process)


def _figures(process: subprocess.Popen[bytes]) -> RelayFigures:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(b"\n")
        process.stdin.flush()
        return msgspec.json.decode(process.stdout.readline(), type=RelayFigures)
    except (OSError, msgspec.DecodeError) as error:
        raise LinkError("the link's relay has ended") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.communicate(timeout=_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()

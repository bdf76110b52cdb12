"""Opens links of the best kind that this machine allows."""

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from bench.link.keeper import MOVE, Orders
from bench.link.namespaces import inside, run
from bench.link.netem import reason_against_netem
from bench.link.rates import recorded_rates
from bench.link.shaped_link import LinkError, LinkKind, RelayFigures, ShapedLink
from bench.link.spec import LinkSpec
from bench.link.tcp_relay import open_tcp_relays

MAX_LINKS = 250
"""One /30 each, below 10.78.0.0/16."""

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
        recorded_rates(spec.trace)
    kind = best_kind(spec) if kind is None else LinkKind(kind)
    match kind:
        case LinkKind.LOOPBACK:
            if spec.is_shaped:
                raise LinkError("a link of kind loopback cannot be shaped")
            yield (ShapedLink(kind, spec),) * num_links
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
    kinds = [LinkKind.TAP] if reason_against_netem(spec) else [LinkKind.NETEM, LinkKind.TAP]
    return next((kind for kind in kinds if reason_against(kind) is None), LinkKind.TCP)


def reason_against(kind: LinkKind) -> str | None:
    """Why links between namespaces do not work here, shaped by netem or by a relay; None: they do.

    It is tried in a namespace that is gone at once.
    """
    if os.geteuid() != 0:
        return "not root"
    probe = "ip tuntap add dev link0 mode tap"
    if kind is LinkKind.NETEM:
        probe = "tc qdisc add dev lo root netem delay 1ms"
    try:
        run(["unshare", "--net", *probe.split()])
    except LinkError as error:
        return str(error)
    return None


@contextmanager
def _open_namespaces(
    spec: LinkSpec, num_links: int, seed: int, kind: LinkKind
) -> Iterator[tuple[ShapedLink, ...]]:
    if (reason := reason_against(kind)) is not None:
        raise LinkError(f"a link of kind {kind} does not work here: {reason}")
    if kind is LinkKind.NETEM and (lack := reason_against_netem(spec)) is not None:
        raise LinkError(f"{lack}; expected kind tap")
    if not 1 <= num_links <= MAX_LINKS:
        raise LinkError(f"expected 1 to {MAX_LINKS} links, got {num_links}")
    orders = Orders(kind=kind, spec=spec, num_links=num_links, seed=seed, parent=os.getpid())
    with _keeper(orders) as (process, namespaces):
        figures = functools.partial(_figures, process)
        yield tuple(
            ShapedLink(
                kind,
                spec,
                cloud_host=cloud.address,
                bind_host="0.0.0.0",
                cloud_prefix=inside(cloud.namespace),
                device_prefix=inside(device.namespace),
                figures=figures if kind is LinkKind.TAP else lambda: None,
                move=functools.partial(_move, process),
            )
            for cloud, device in orders.ends(namespaces)
        )
        if process.poll() is not None:
            raise LinkError("the link's relay ended before the link was closed")


@contextmanager
def _keeper(orders: Orders) -> Iterator[tuple[subprocess.Popen[bytes], list[str]]]:
    """A running keeper and its namespaces, which end with the block or with this process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.link.keeper"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    answer = b""
    try:
        with contextlib.suppress(BrokenPipeError):  # it says why on standard error
            answer = _ask(process, msgspec.json.encode(orders))
        if not answer:
            _, complaint = process.communicate()
            last = complaint.decode(errors="replace").strip().splitlines()[-1:]
            raise LinkError(f"the link's relay did not start: {''.join(last)}")
        yield process, msgspec.json.decode(answer, type=list[str])
    finally:
        try:
            process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _figures(process: subprocess.Popen[bytes], order: bytes = b"") -> RelayFigures:
    try:
        return msgspec.json.decode(_ask(process, order), type=RelayFigures)
    except (OSError, msgspec.DecodeError) as error:
        raise LinkError("the link's relay has ended") from error


def _move(process: subprocess.Popen[bytes]) -> None:
    _figures(process, MOVE)


def _ask(process: subprocess.Popen[bytes], order: bytes) -> bytes:
    """The keeper's answer; none if it has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(order + b"\n")
    process.stdin.flush()
    return process.stdout.readline()

"""Network namespaces of links: their names, making them, removing them and what is left of them.

Everything is done with iproute2's `ip` and needs root. A namespace's name holds the process id of
its owner, so that a later run can tell which ones nobody owns any more.
"""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.link.shaped_link import LinkError

_RUN_FOLDER = Path("/run/netns")
_TUN_DEVICE = Path("/dev/net/tun")
_OWNED = re.compile(r"hat-link-(\d+)-[0-9a-f]+-\w+")
_CLONE_NEWNET = 0x40000000
_COMMAND_S = 20.0

MAX_LINKS = 250
"""One /30 each, below 10.78.0.0/16."""


@dataclass(frozen=True, slots=True)
class End:
    """One end of one link: an interface in a namespace, and the other end's address."""

    namespace: str
    interface: str
    address: str
    peer_address: str
    mac: str
    peer_mac: str


@dataclass(frozen=True, slots=True)
class Pair:
    """The two ends of a link."""

    cloud: End
    device: End


def new_pairs(num_links: int) -> tuple[Pair, ...]:
    """Names and addresses for links that share a cloud's namespace; nothing is made yet.

    Raises:
        LinkError: more links than there are addresses.
    """
    if not 1 <= num_links <= MAX_LINKS:
        raise LinkError(f"expected 1 to {MAX_LINKS} links, got {num_links}")
    stem = f"hat-link-{os.getpid()}-{os.urandom(3).hex()}"
    pairs = []
    for number in range(num_links):
        hosts = [f"10.78.{number}.{host}" for host in (1, 2)]
        macs = [f"02:68:61:74:{number:02x}:{host:02x}" for host in (1, 2)]
        cloud = End(f"{stem}-cloud", f"link{number}", *hosts, *macs)
        device = End(f"{stem}-device{number}", "link0", *hosts[::-1], *macs[::-1])
        pairs.append(Pair(cloud, device))
    return tuple(pairs)


def namespaces_of(pairs: Sequence[Pair]) -> list[str]:
    """The cloud's, then the devices'."""
    return [pairs[0].cloud.namespace, *(pair.device.namespace for pair in pairs)]


def run(argv: Sequence[str], text: str = "") -> str:
    """What a command printed.

    Raises:
        LinkError: it is missing, fails or hangs.
    """
    try:
        result = subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=_COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LinkError(f"`{' '.join(argv)}`: {error}") from error
    if result.returncode != 0:
        raise LinkError(f"`{' '.join(argv)}`: {result.stderr.strip() or result.returncode}")
    return result.stdout


def inside(namespace: str) -> tuple[str, ...]:
    """What to put before a command so that it runs in a namespace."""
    return ("ip", "netns", "exec", namespace)


def address_lines(end: End, congestion: str) -> str:
    """Lines for `ip -batch` that bring an end up, with its neighbour known, so no ARP crosses.

    Congestion control is set on the route, since only the first namespace may make any algorithm
    the default.
    """
    network = end.address.rpartition(".")[0]
    return "\n".join(
        [
            "link set dev lo up",
            f"link set dev {end.interface} address {end.mac} mtu 1500",
            f"link set dev {end.interface} up",
            f"addr add {end.address}/30 dev {end.interface} noprefixroute",
            f"route add {network}.0/30 dev {end.interface} src {end.address} congctl {congestion}",
            f"neigh replace {end.peer_address} lladdr {end.peer_mac} dev {end.interface} "
            "nud permanent",
            "",
        ]
    )


def bring_up(end: End, congestion: str) -> None:
    """Give an interface that exists its addresses.

    Raises:
        LinkError: `ip` refuses.
    """
    run(["ip", "-n", end.namespace, "-batch", "-"], address_lines(end, congestion))


def enter(namespace: str) -> None:
    """Have this thread's new sockets and devices belong to a namespace.

    Raises:
        OSError: there is no such namespace, or this process may not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(_RUN_FOLDER / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(handle, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(handle)


def remove(namespaces: Sequence[str]) -> None:
    """End what still runs in namespaces of ours and remove them; missing ones are no fault."""
    for namespace in namespaces:
        if not (_RUN_FOLDER / namespace).exists():
            continue
        with contextlib.suppress(LinkError):
            for process in run(["ip", "netns", "pids", namespace]).split():
                if int(process) != os.getpid():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(process), signal.SIGKILL)
        with contextlib.suppress(LinkError):
            run(["ip", "netns", "delete", namespace])


def sweep() -> list[str]:
    """Remove namespaces of links whose owner is gone; their names."""
    names = [path.name for path in _RUN_FOLDER.glob("hat-link-*")]
    dead = [name for name in names if (match := _OWNED.fullmatch(name)) and not _lives(match[1])]
    remove(dead)
    return dead


def _lives(process: str) -> bool:
    return Path("/proc", process).exists()


def reason_against_namespaces() -> str | None:
    """Why links cannot have namespaces of their own here; None: they can."""
    if os.geteuid() != 0:
        return "not root"
    if shutil.which("ip") is None:
        return "no `ip` command (iproute2)"
    probe = f"hat-link-{os.getpid()}-{os.urandom(3).hex()}-probe"
    try:
        run(["ip", "netns", "add", probe])
        run(["ip", "netns", "delete", probe])
    except LinkError as error:
        return str(error)
    return None


def reason_against_tap() -> str | None:
    """Why a userspace relay between namespaces cannot work here; None: it can."""
    if (reason := reason_against_namespaces()) is not None:
        return reason
    try:
        os.close(os.open(_TUN_DEVICE, os.O_RDWR))
    except OSError as error:
        return f"{_TUN_DEVICE}: {error.strerror}"
    return None

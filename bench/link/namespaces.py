"""Network namespaces for the ends of links: made, entered, addressed and emptied.

Needs root, iproute2's `ip` and util-linux's `nsenter`. A namespace has no name, only an open file
of the process that made it: it is gone with that file and the last process in it.
"""

import contextlib
import ctypes
import fcntl
import gc
import os
import signal
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.link.shaped_link import LinkError

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_TAP_WITHOUT_HEADER = 0x0002 | 0x1000
_COMMAND_S = 20.0

_SETTINGS = (
    # Nothing but the links' own traffic shall cross them.
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    # A connection shall not begin with what an earlier one learned.
    ("net/ipv4/tcp_no_metrics_save", "1"),
)

_ALGORITHMS = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
_CONGESTION = ("cubic", "reno")
"""Most machines' default, and what every kernel has. Some have bbr by default, which keeps more
or less in the buffer as it takes the link's rate to be."""

_MAC = "02:68:61:74:00:01"
"""Of every end. Without ARP an interface takes its own MAC for its neighbour's, so they are equal;
and no ARP crosses a link."""


@dataclass(frozen=True, slots=True)
class End:
    """One end of one link: an interface in a namespace, and its address."""

    namespace: str
    """The path of its file."""
    interface: str
    address: str
    network: str
    """Both ends' addresses, unless one has moved: a /30."""

    def command(self, *argv: str) -> list[str]:
        """A command that is run in the namespace."""
        return [*inside(self.namespace), *argv]

    def make_tap(self) -> int:
        """Make a TAP device, which is gone once the file that is returned is closed.

        Raises:
            OSError: this process may not, or the name is taken.
        """
        namespace = os.open(self.namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("setns", namespace)
        finally:
            os.close(namespace)
        handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        request = struct.pack("16sH22x", self.interface.encode(), _TAP_WITHOUT_HEADER)
        fcntl.ioctl(handle, _TUNSETIFF, request)
        return handle

    def bring_up(self) -> None:
        """Give the interface, which exists, its address.

        Congestion control is set on the route, since only the first namespace may make any
        algorithm the default.

        Raises:
            LinkError: `ip` refuses.
        """
        dev = f"dev {self.interface}"
        lines = (
            f"link set {dev} address {_MAC} arp off mtu 1500",
            f"link set {dev} up",
            f"addr add {self.address}/30 {dev} noprefixroute",
            f"route add {self.network} {dev} src {self.address} congctl {_congestion()}",
        )
        self.configure(lines)

    def expect(self, network: str) -> None:
        """Take addresses of another network for the far end's as well.

        Raises:
            LinkError: `ip` refuses.
        """
        dev = f"dev {self.interface}"
        self.configure((f"route add {network} {dev} src {self.address} congctl {_congestion()}",))

    def moved(self, address: str) -> "End":
        """The end with another address, and without the one before.

        What is connected from that one is not told: what it sends cannot leave, and what comes for
        it belongs to nobody here.

        Raises:
            LinkError: `ip` refuses.
        """
        network, dev = self.network, f"dev {self.interface}"
        lines = (
            f"addr add {address}/32 {dev}",
            f"route replace {network} {dev} src {address} congctl {_congestion()}",
            f"addr flush {dev} to {self.address}",
        )
        self.configure(lines)
        return replace(self, address=address)

    def configure(self, lines: Sequence[str]) -> None:
        """Give `ip` these commands in the namespace.

        Raises:
            LinkError: it refuses one.
        """
        run(self.command("ip", "-batch", "-"), "\n".join(lines))


def _congestion() -> str:
    known = _ALGORITHMS.read_text().split() if _ALGORITHMS.exists() else []
    return next((name for name in _CONGESTION if name in known), _CONGESTION[-1])


def new_namespace() -> str:
    """The path of a new namespace's file, which is open until this process ends.

    Raises:
        OSError: this process may not.
    """
    _call("unshare")
    for name, value in _SETTINGS:
        with contextlib.suppress(OSError):  # a kernel without it has nothing to set
            Path("/proc/sys", name).write_text(value)
    run(["ip", "link", "set", "dev", "lo", "up"])
    handle = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    return f"/proc/{os.getpid()}/fd/{handle}"


def inside(namespace: str) -> tuple[str, ...]:
    """What to put before a command so that it runs in a namespace."""
    return ("nsenter", f"--net={namespace}")


def kill_all_in(namespaces: Sequence[str]) -> None:
    """End what runs in namespaces, but for this process."""
    ours = {os.stat(namespace).st_ino for namespace in namespaces}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            is_inside = (process / "ns" / "net").stat().st_ino in ours
            if is_inside and int(process.name) != os.getpid():
                os.kill(int(process.name), signal.SIGKILL)


def run_before_others() -> None:
    """Have this process scheduled at once when something is due, whatever else computes, if it may;
    for programs that are punctual and compute little."""
    gc.disable()
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def run(argv: Sequence[str], text: str = "") -> None:
    """Run a command that reads `text`.

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


def _call(name: str, *arguments: int) -> None:
    """One of the system's two calls for namespaces; Python has them from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")

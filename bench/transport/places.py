"""Where messages are sent: pairs of programs at the two ends of links, each with its own link."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from bench.link.namespaces import run
from bench.link.shaped_link import LinkError, ShapedLink
from bench.transport.sender import SocketsWay

_SLOW_START = "/proc/sys/net/ipv4/tcp_slow_start_after_idle"
_END_S = 10.0


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to send, as two programs.

    The cloud's is given the address to bind and prints its port. The device's is given the cloud's
    address and port and its own words, and obeys as `bench.transport.sender` does.
    """

    name: str
    device: tuple[str, ...]
    """The module, and what follows address and port."""
    cloud: str = "bench.transport.receiver"
    is_setting_off: bool = False
    """Whether `net.ipv4.tcp_slow_start_after_idle` is 0 at both ends."""


def sockets_arm(name: str, way: SocketsWay, *, is_setting_off: bool = False) -> Arm:
    """Plain connections."""
    words = ("bench.transport.sender", msgspec.json.encode(way).decode())
    return Arm(name, words, is_setting_off=is_setting_off)


def device_arm(name: str, connections: str) -> Arm:
    """The device's own link to a real cloud without layers."""
    words = ("bench.transport.device_sender", connections)
    return Arm(name, words, cloud="bench.transport.device_cloud")


class Sender:
    """A running pair of programs, which sends one message at a time."""

    def __init__(self, device: subprocess.Popen[str]) -> None:
        self._device = device

    def renew(self) -> None:
        """New connections."""
        self.ask("new")

    def send(self, num_bytes: int) -> float:
        """Seconds from its first byte's sending to its last byte's coming.

        Raises:
            LinkError: the device's program ended.
        """
        return float(self.ask(str(num_bytes)))

    def ask(self, line: str) -> str:
        """The answer to a line that the device's program knows.

        Raises:
            LinkError: it ended.
        """
        device = self._device
        assert device.stdin is not None
        assert device.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            device.stdin.write(line + "\n")
            device.stdin.flush()
        answer = device.stdout.readline()
        if not answer:
            raise LinkError(f"the device's program ended ({device.wait(_END_S)})")
        return answer


@contextlib.contextmanager
def running(arm: Arm, link: ShapedLink) -> Iterator[Sender]:
    """Both programs of an arm on a link between namespaces.

    Raises:
        LinkError: one does not start, or the setting cannot be made.
    """
    if arm.is_setting_off:
        for prefix in (link.device_prefix, link.cloud_prefix):
            run([*prefix, "sh", "-c", f"echo 0 > {_SLOW_START}"])
    with receiving(arm.cloud, link) as port:
        module, *words = arm.device
        device = python_at(link.device_prefix, [module, link.cloud_host, port, *words])
        try:
            yield Sender(device)
        finally:
            device.kill()
            device.communicate()


@contextlib.contextmanager
def receiving(module: str, link: ShapedLink) -> Iterator[str]:
    """The cloud's program, running; its port.

    Raises:
        LinkError: it does not start.
    """
    cloud = python_at(link.cloud_prefix, [module, link.bind_host])
    try:
        assert cloud.stdout is not None
        port = cloud.stdout.readline().strip()
        if not port:
            raise LinkError(f"the cloud's program did not start ({cloud.wait(_END_S)})")
        yield port
    finally:
        cloud.kill()
        cloud.communicate()


def python_at(prefix: Sequence[str], words: Sequence[str]) -> subprocess.Popen[str]:
    """A module's program at one end of a link, spoken to through its standard streams."""
    argv = [*prefix, sys.executable, "-m", *words]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

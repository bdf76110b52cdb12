"""An open link: where its two ends are and how to start a process at each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.link.spec import LinkSpec
from process.errors import UserError


class LinkError(UserError):
    """A link cannot be opened or broke down; the message says what was tried and what came."""


class LinkKind(StrEnum):
    """What shapes a link; see `LinkRecord.kind`."""

    NETEM = "netem"
    TAP = "tap"
    TCP = "tcp"
    LOOPBACK = "loopback"


@dataclass(frozen=True, slots=True)
class RelayFigures:
    """How well a relay between namespaces kept up, over all links opened with it.

    Dropped frames are those the shapers dropped: buffer full, or lost as asked. `late_s` is how
    long after its moment a frame left, on average and at worst.
    """

    num_carried: int
    num_dropped: int
    mean_late_s: float
    worst_late_s: float
    cpu_s: float


def no_figures() -> None:
    """The figures of a link that has no relay of ours, or one that keeps none."""


def same_port(port: int) -> int:
    """The port under which a device finds the cloud where no relay stands between."""
    return port


@dataclass(frozen=True, slots=True)
class ShapedLink:
    """A link between a cloud's and a device's end, open until its `with` block ends.

    The cloud binds `bind_host`; a device connects to `cloud_host` at `forward(port)`, where `port`
    is the cloud's own. `device_host` is where a device is seen from the cloud. Each end has its own
    loopback when kind is netem or tap, and then a process belongs to an end only if it was started
    with that end's command. Several processes at one device's end share the link.
    """

    kind: LinkKind
    spec: LinkSpec
    cloud_host: str
    device_host: str
    bind_host: str
    cloud_prefix: tuple[str, ...] = ()
    device_prefix: tuple[str, ...] = ()
    forward: Callable[[int], int] = same_port
    figures: Callable[[], RelayFigures | None] = no_figures

    def cloud_command(self, argv: Sequence[str]) -> list[str]:
        """What to start so that it runs at the cloud's end; the process id stays the command's."""
        return [*self.cloud_prefix, *argv]

    def device_command(self, argv: Sequence[str]) -> list[str]:
        """What to start so that it runs at the device's end; the process id stays the command's."""
        return [*self.device_prefix, *argv]

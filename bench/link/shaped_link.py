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
    """How well a relay between namespaces kept up, over all links opened with it."""

    num_carried: int
    num_dropped: int
    """Frames that the shapers dropped: buffer full, or lost as asked."""
    mean_late_s: float
    """How long after its moment a frame left."""
    worst_late_s: float
    cpu_s: float
    started_s: float
    """When the links were opened, by this machine's monotonic clock: traces begin then."""


@dataclass(frozen=True, slots=True)
class ShapedLink:
    """A link between a cloud's and a device's end, open until its `with` block ends.

    Several processes at one device's end share the link. When kind is netem or tap each end has its
    own loopback, and a process belongs to an end only if it was started with that end's command.
    """

    kind: LinkKind
    spec: LinkSpec
    cloud_host: str = "127.0.0.1"
    """Where devices find the cloud, at `forward` of the port that it has bound."""
    bind_host: str = "127.0.0.1"
    """What the cloud binds."""
    cloud_prefix: tuple[str, ...] = ()
    device_prefix: tuple[str, ...] = ()
    forward: Callable[[int], int] = lambda port: port
    figures: Callable[[], RelayFigures | None] = lambda: None
    """Of the relay, until now; None for a link without one that keeps figures."""

    move: Callable[[], None] | None = None
    """Gives this link's device, and those of links opened with it, another address at once; None
    for a link between no namespaces, where nobody has an address of their own."""

    def cloud_command(self, argv: Sequence[str]) -> list[str]:
        """What to start so that it runs at the cloud's end; the process id stays the command's."""
        return [*self.cloud_prefix, *argv]

    def device_command(self, argv: Sequence[str]) -> list[str]:
        """What to start so that it runs at the device's end; the process id stays the command's."""
        return [*self.device_prefix, *argv]

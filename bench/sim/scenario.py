"""What is simulated: who asks when for how much, over which link, of which cloud, by which arm."""

import math
from dataclasses import dataclass, field
from typing import Literal

from bench.link.spec import LinkSpec
from bench.records import LinkRecord, ModelRecord, WorkloadRecord
from bench.sim.arms import SimArm
from bench.sim.cloud import CloudSpec
from bench.sim.world.acceptance import AcceptanceTable
from bench.sim.world.coding import CodecTimes
from bench.sim.world.times import NO_OVERHEADS, DeviceTimes, Overheads
from bench.workloads.arrivals import CLOSED
from chunking.cost import LinearTime
from device_runtime.engines.engine import DraftLimits
from device_runtime.link.config import Patience

_PAPER_DRAFTS = DraftLimits(stop_threshold=0.6, max_tokens=6)
"""The threshold is in the acceptance table; it is not looked at here."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. With closed arrivals devices ask in turn, in this order.

    What is not counted is asked like the others and left out of the results. Prompts begin with
    `common_tokens` that are the same in all of them.
    """

    number: int
    device: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    is_counted: bool = True
    common_tokens: int = 0


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One device: its times, its link, and its slow modes.

    Every `mode_requests` requests its times are multiplied with another of `modes`. `whole` is
    the whole model on the device, for the arm that runs it there. `is_slow_after_pause` says
    whether the device's TCP begins slowly again after a pause.
    """

    times: DeviceTimes
    link: LinkSpec
    overheads: Overheads = NO_OVERHEADS
    modes: tuple[float, ...] = (1.0,)
    mode_requests: int = 5
    whole: LinearTime | None = None
    is_slow_after_pause: bool = True


@dataclass(frozen=True, slots=True)
class Trouble:
    """What breaks at a moment: `cut` ends every socket and leaves sessions to be opened again;
    `kill` ends every cloud with its sessions, which is back `down_s` later."""

    at_s: float
    kind: Literal["cut", "kill"]
    down_s: float = 1.0


@dataclass(frozen=True, slots=True)
class OpenLoad:
    """Requests that never cease: the run is looked at after `looks` times `duration_s`, until it
    has settled (`bench.sim.open_end`). The first look is only for what will not settle."""

    duration_s: float
    requests_per_s: float
    looks: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)

    @property
    def num_requests(self) -> int:
        """Enough to go on after the last look, until those that count have ended."""
        return math.ceil((self.looks[-1] + 1) * self.duration_s * self.requests_per_s)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One cell. `setting` and the records are what its results are filed under.

    With `is_link_shared` all devices are behind one bottleneck each way, the first one's: TCP's
    segments of all of them queue there in the order in which they come. With `open_load` the run
    ends when it has settled, not with the last of `requests`, whose numbers are their places; of
    each answer only the first piece and the end are kept.
    """

    arm: SimArm
    setting: str
    model: ModelRecord
    link: LinkRecord
    workload: WorkloadRecord
    requests: tuple[Request, ...]
    devices: tuple[DeviceSpec, ...]
    cloud: CloudSpec
    acceptance: AcceptanceTable
    seed: int
    draft_limits: DraftLimits = _PAPER_DRAFTS
    num_replicas: int = 1
    is_link_shared: bool = False
    open_load: OpenLoad | None = None
    num_timelines: int = 0
    repeat: int = 0
    notes: tuple[str, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    patience: Patience = field(default_factory=Patience)
    codec: CodecTimes | None = None
    """What both sides code rows with where that is sooner; None: rows are sent as they are."""

    @property
    def is_closed(self) -> bool:
        """Whether devices ask in turn, each when its last answer is there."""
        return self.workload.arrivals == CLOSED

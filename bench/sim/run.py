"""A scenario from its first arrival to its last token."""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from bench.link.rates import RecordedRate
from bench.link.shaper import Shaper, directions
from bench.link.spec import LinkSpec
from bench.link.traces import load_trace
from bench.records import Cell, RequestRecord
from bench.sim.cloud import CloudSpec, Replica, least_loaded
from bench.sim.device import Device
from bench.sim.device_engine import SimEngine
from bench.sim.device_link import Channels, DeviceLink
from bench.sim.generation import Asking
from bench.sim.kernel import Kernel, Process
from bench.sim.link import Channel, PlainChannel, way_down, way_up
from bench.sim.open_end import OpenEnd
from bench.sim.scenario import Request, Scenario
from bench.sim.tcp import TcpChannel
from bench.sim.times import NO_OVERHEADS, NO_TIME, DeviceTimes
from chunking.state_monitor import StateMonitor
from cloud_server.core.actions import ConnectionId

_CONNECTS_BEFORE_S = 1.0
"""A device's program is there some time before its user asks."""

_NOTHING = DeviceTimes(NO_TIME, NO_TIME, 0.0, 0.0)


def simulate(scenario: Scenario) -> Cell:
    """Run a scenario; the same one gives the same cell, to the last digit."""
    run = _Run(scenario)
    run.kernel.run(run.is_over)
    return run.cell()


class _AllEnded:
    """The end of a run with a fixed number of requests: when each of them has ended."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._num_left = len(requests)
        self._counted = {request.number for request in requests if request.is_counted}
        self._records: list[RequestRecord] = []

    @property
    def is_over(self) -> bool:
        return self._num_left == 0

    def take(self, record: RequestRecord) -> None:
        self._num_left -= 1
        if record.number in self._counted:
            self._records.append(record)

    def records(self) -> list[RequestRecord]:
        return self._records

    def steady(self) -> None:
        """Nothing is said of a load that ends."""


def _end_of(scenario: Scenario, kernel: Kernel) -> _AllEnded | OpenEnd:
    if scenario.open_load is None:
        return _AllEnded(scenario.requests)
    return OpenEnd(kernel, scenario.open_load, scenario.requests)


class _Run:
    def __init__(self, scenario: Scenario) -> None:
        self.kernel = Kernel()
        self._scenario = scenario
        cloud = _cloud_of(scenario)
        self._replicas = [Replica(self.kernel, cloud) for _ in range(scenario.num_replicas)]
        self._end = _end_of(scenario, self.kernel)
        self._asking = Asking(scenario, self._take)
        self._devices: dict[int, Device] = {}
        self._edges: dict[int, Channels] = {}
        self._num_asked: defaultdict[int, int] = defaultdict(int)
        for replica in self._replicas:
            replica.start(self.is_over)
        if scenario.is_closed:
            self._start_closed()
        else:
            for request in scenario.requests:
                self._start_at(request)

    def is_over(self) -> bool:
        """Whether the scenario has been played."""
        return self._end.is_over

    def _take(self, request: Request, record: RequestRecord) -> None:
        self._end.take(record)

    def cell(self) -> Cell:
        """What was seen."""
        scenario = self._scenario
        steps = [step for replica in self._replicas for step in replica.steps]
        steps = steps if scenario.keeps_pieces else []
        return Cell(
            arm=scenario.arm.name,
            setting=scenario.setting,
            repeat=scenario.repeat,
            model=scenario.model,
            link=scenario.link,
            workload=scenario.workload,
            requests=sorted(self._end.records(), key=lambda record: record.number),
            cloud_step_s=[round(seconds, 9) for _, seconds in steps],
            cloud_step_tokens=[num_tokens for num_tokens, _ in steps],
            num_replicas=scenario.num_replicas,
            notes=list(scenario.notes),
            steady=self._end.steady(),
        )

    def _start_at(self, request: Request) -> None:
        connect_s = max(0.0, request.arrival_s - _CONNECTS_BEFORE_S)

        def ask() -> None:
            self.kernel.spawn(self._ask(request))

        self.kernel.at(connect_s, lambda: self._connect(request.device))
        self.kernel.at(request.arrival_s, ask)

    def _start_closed(self) -> None:
        queues: defaultdict[int, deque[Request]] = defaultdict(deque)
        for request in self._scenario.requests:
            queues[request.device].append(request)
        for number, queue in queues.items():
            self._connect(number)
            self.kernel.spawn(self._ask_in_turn(queue))

    def _ask_in_turn(self, queue: deque[Request]) -> Process[None]:
        while queue:
            yield from self._ask(queue.popleft())

    def _ask(self, request: Request) -> Process[None]:
        device, spec = self._devices[request.device], self._scenario.devices[request.device]
        num_asked = self._num_asked[request.device]
        self._num_asked[request.device] += 1
        if len(spec.modes) > 1 and num_asked % spec.mode_requests == 0:
            device.engine.times = spec.times.scaled(device.draws.choice(spec.modes))
        yield from self._asking.run(device, request, self._edges.get(request.device))

    def _connect(self, number: int) -> None:
        """Make a device, the first time it is wanted."""
        if number in self._devices:
            return
        scenario, kernel = self._scenario, self.kernel
        spec, arm = scenario.devices[number], scenario.arm
        link_spec, times = spec.link, spec.times
        if arm.where == "cloud":
            # The runtime stands beside the cloud; requests and tokens cross the link.
            self._edges[number] = self._channels(number, spec.link)
            link_spec, times = LinkSpec(), _NOTHING
        limits = scenario.draft_limits if arm.drafts == "adapter" else None
        config = replace(arm.device, drafter="adapter" if limits is not None else "none")
        link = DeviceLink(
            kernel,
            ConnectionId(number + 1),
            self._channels(number, link_spec),
            scenario.cloud.row_bytes,
            StateMonitor(is_robust=config.chunking != "paper"),
        )
        draws = Random(f"{scenario.seed}/device/{number}")
        engine = SimEngine(times, limits)
        self._devices[number] = Device(kernel, link, engine, config, spec.overheads, draws)
        frame_s = 0.0 if arm.where == "cloud" else scenario.cloud.overheads.frame_s
        link.connect(least_loaded(self._replicas), frame_s)

    def _channels(self, number: int, spec: LinkSpec) -> Channels:
        return make_channels(self.kernel, spec, self._scenario, number)


def make_channels(kernel: Kernel, spec: LinkSpec, scenario: Scenario, number: int) -> Channels:
    """Both ways of a device's link; by segments where the scenario says so or the rate changes."""
    if not (scenario.by_segments and spec.is_shaped) and spec.trace is None:
        up, down = (Random(f"{scenario.seed}/{way}/{number}") for way in ("up", "down"))
        return Channels(
            PlainChannel(kernel, way_up(spec), up), PlainChannel(kernel, way_down(spec), down)
        )
    recorded: tuple[RecordedRate, RecordedRate] | None = None
    if spec.trace is not None:
        trace = load_trace(spec.trace)
        recorded = (trace.uplink(), trace.downlink())
    ways: list[Channel] = []
    for name, direction in zip(("up", "down"), directions(spec, recorded), strict=True):
        draw = Random(f"{scenario.seed}/{name}/{number}").random
        ways.append(TcpChannel(kernel, Shaper(direction, draw), spec.delay_s))
    return Channels(*ways)


def _cloud_of(scenario: Scenario) -> CloudSpec:
    """The cloud as the arm has it set up."""
    cloud, arm = scenario.cloud, scenario.arm
    overheads = cloud.overheads
    if arm.where == "cloud":
        overheads = replace(NO_OVERHEADS, hand_over_s=overheads.hand_over_s)
    return replace(cloud, core=arm.core(cloud.core), overheads=overheads)

"""A scenario from its first arrival to its last token."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from bench.records import Cell, RequestRecord
from bench.sim.asking import Asking
from bench.sim.cloud import CloudSpec, Replica
from bench.sim.device import Device
from bench.sim.open_end import OpenEnd
from bench.sim.scenario import Request, Scenario, Trouble
from bench.sim.world.times import NO_OVERHEADS
from process.virtual_loop import run_virtual

_CONNECTS_BEFORE_S = 1.0
"""A device's program is there some time before its user asks."""


def simulate(scenario: Scenario) -> Cell:
    """Run a scenario; the same one gives the same cell, to the last digit."""

    async def run() -> Cell:
        return await _Run(scenario).cell()

    return run_virtual(run)


class _AllEnded:
    """The end of a run with a fixed number of requests: when each of them has ended."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._num_left = len(requests)
        self._counted = {request.number for request in requests if request.is_counted}
        self._records: list[RequestRecord] = []
        self.over = asyncio.Event()

    def take(self, record: RequestRecord) -> None:
        self._num_left -= 1
        if record.number in self._counted:
            self._records.append(record)
        if self._num_left == 0:
            self.over.set()

    def records(self) -> list[RequestRecord]:
        return self._records

    def steady(self) -> None:
        """Nothing is said of a load that ends."""


class _Run:
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._loop = asyncio.get_running_loop()
        cloud = _cloud_of(scenario)
        self._replicas = [Replica(cloud) for _ in range(scenario.num_replicas)]
        open_load = scenario.open_load
        self._end: _AllEnded | OpenEnd = (
            _AllEnded(scenario.requests)
            if open_load is None
            else OpenEnd(self._loop, open_load, scenario.requests)
        )
        self._asking = Asking(scenario)
        self._devices: dict[int, Device] = {}
        self._num_asked: defaultdict[int, int] = defaultdict(int)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []

    async def cell(self) -> Cell:
        """Play it, and say what was seen."""
        for trouble in self._scenario.troubles:
            self._loop.call_at(trouble.at_s, self._break, trouble)
        if self._scenario.is_closed:
            self._start_closed()
        else:
            self._spawn(self._connect_in_time())
            self._spawn(self._ask_in_time())
        await self._end.over.wait()
        if self._failures:
            raise self._failures[0]
        return self._cell()

    def _cell(self) -> Cell:
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

    async def _connect_in_time(self) -> None:
        for request in self._in_time():
            await self._until(request.arrival_s - _CONNECTS_BEFORE_S)
            self._connect(request.device)

    async def _ask_in_time(self) -> None:
        for request in self._in_time():
            await self._until(request.arrival_s)
            self._spawn(self._ask(request))

    def _in_time(self) -> list[Request]:
        return sorted(self._scenario.requests, key=lambda request: request.arrival_s)

    async def _until(self, time_s: float) -> None:
        wait_s = time_s - self._loop.time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    def _start_closed(self) -> None:
        queues: defaultdict[int, deque[Request]] = defaultdict(deque)
        for request in self._scenario.requests:
            queues[request.device].append(request)
        for number, queue in queues.items():
            self._connect(number)
            self._spawn(self._ask_in_turn(queue))

    async def _ask_in_turn(self, queue: deque[Request]) -> None:
        while queue:
            await self._ask(queue.popleft())

    async def _ask(self, request: Request) -> None:
        self._connect(request.device)
        device = self._devices[request.device]
        if device.link.limits is None:
            # Its program is there before its user asks, whatever the scenario's first moment.
            await device.link.connected()
        num_asked = self._num_asked[request.device]
        self._num_asked[request.device] += 1
        modes = device.spec.modes
        if len(modes) > 1 and num_asked % device.spec.mode_requests == 0:
            device.scale_times(device.draws.choice(modes))
        self._end.take(await self._asking.ask(device, request))

    def _connect(self, number: int) -> None:
        """Make a device, the first time it is wanted."""
        if number not in self._devices:
            self._devices[number] = Device(self._scenario, number, self._replicas)

    def _break(self, trouble: Trouble) -> None:
        for replica in self._replicas:
            if trouble.kind == "cut":
                replica.cut_all()
            else:
                self._spawn(replica.kill(trouble.down_s))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Forget a task; a failure ends the run."""
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failures.append(failure)
            self._end.over.set()


def _cloud_of(scenario: Scenario) -> CloudSpec:
    """The cloud as the arm has it set up."""
    cloud, arm = scenario.cloud, scenario.arm
    overheads = cloud.overheads
    if arm.where == "cloud":
        overheads = replace(NO_OVERHEADS, hand_over_s=overheads.hand_over_s)
    return replace(cloud, core=arm.core(cloud.core), overheads=overheads)

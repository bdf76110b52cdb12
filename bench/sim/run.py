"""A scenario from its first arrival to its last token."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from bench.records import Cell, RequestRecord
from bench.sim.asking import Asking
from bench.sim.cloud import CloudSpec, Replica
from bench.sim.device import Device, shared_link
from bench.sim.open_end import OpenEnd
from bench.sim.scenario import Request, Scenario, Trouble
from bench.sim.world.times import Overheads
from process.virtual_loop import run_virtual

_CONNECTS_BEFORE_S = 1.0
"""A device's program is there some time before its user asks."""


def simulate(scenario: Scenario) -> Cell:
    """Run a scenario; the same one gives the same cell, to the last digit."""

    async def run() -> Cell:
        return await _Run(scenario).cell()

    return run_virtual(run)


class _Run:
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._loop = asyncio.get_running_loop()
        cloud = _cloud_of(scenario)
        self._replicas = [Replica(cloud) for _ in range(scenario.num_replicas)]
        self._devices: dict[int, Device] = {}
        self._shared = shared_link(scenario) if scenario.is_link_shared else None
        self._tasks: set[asyncio.Task[None]] = set()
        self._records: list[RequestRecord] = []
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._open_end: OpenEnd | None = None
        if scenario.open_load is not None:
            self._open_end = OpenEnd(scenario.open_load, scenario.requests, self._end)

    async def cell(self) -> Cell:
        """Play it, and say what was seen."""
        for trouble in self._scenario.troubles:
            self._loop.call_at(trouble.at_s, self._break, trouble)
        if self._scenario.is_closed:
            self._start_closed()
        else:
            self._spawn(self._in_time(self._connect, _CONNECTS_BEFORE_S))
            self._spawn(self._in_time(lambda request: self._spawn(self._ask(request))))
        await self._over
        return self._cell()

    def _cell(self) -> Cell:
        scenario, end = self._scenario, self._open_end
        counted = {request.number for request in scenario.requests if request.is_counted}
        ended = [record for record in self._records if record.number in counted]
        steps = [step for replica in self._replicas for step in replica.steps]
        steps = steps if end is None else []
        return Cell(
            arm=scenario.arm.name,
            setting=scenario.setting,
            repeat=scenario.repeat,
            model=scenario.model,
            link=scenario.link,
            workload=scenario.workload,
            requests=sorted(end.records() if end else ended, key=lambda record: record.number),
            cloud_step_s=[round(seconds, 9) for _, seconds in steps],
            cloud_step_tokens=[num_tokens for num_tokens, _ in steps],
            num_replicas=scenario.num_replicas,
            notes=list(scenario.notes),
            steady=end.steady() if end else None,
        )

    async def _in_time(self, act: Callable[[Request], None], before_s: float = 0.0) -> None:
        """Do something for each request when it comes, or so long before."""
        for request in sorted(self._scenario.requests, key=lambda request: request.arrival_s):
            wait_s = request.arrival_s - before_s - self._loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            act(request)

    def _start_closed(self) -> None:
        queues: defaultdict[int, list[Request]] = defaultdict(list)
        for request in self._scenario.requests:
            queues[request.device].append(request)
        for queue in queues.values():
            self._connect(queue[0])
            self._spawn(self._ask_in_turn(queue))

    async def _ask_in_turn(self, queue: Sequence[Request]) -> None:
        for request in queue:
            await self._ask(request)

    async def _ask(self, request: Request) -> None:
        self._connect(request)
        device = self._devices[request.device]
        # Its program is there before its user asks, whatever the scenario's first moment.
        await device.ready()
        record = await Asking(device, request).record()
        if self._open_end is not None:
            self._open_end.take(record)
            return
        self._records.append(record)
        if len(self._records) == len(self._scenario.requests):
            self._end()

    def _connect(self, request: Request) -> None:
        """Make a request's device, the first time it is wanted."""
        number = request.device
        if number not in self._devices:
            self._devices[number] = Device(self._scenario, number, self._replicas, self._shared)

    def _break(self, trouble: Trouble) -> None:
        for replica in self._replicas:
            if trouble.kind == "cut":
                replica.cut_all()
            else:
                self._spawn(replica.kill(trouble.down_s))

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Forget a task; a failure ends the run."""
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if failure is not None and not self._over.done():
            self._over.set_exception(failure)


def _cloud_of(scenario: Scenario) -> CloudSpec:
    """The cloud as the arm has it set up."""
    cloud, arm = scenario.cloud, scenario.arm
    overheads = cloud.overheads
    if arm.where == "cloud":
        overheads = Overheads(hand_over_s=overheads.hand_over_s)
    core = arm.core(cloud.core)
    return replace(cloud, core=core, overheads=overheads, codec=scenario.codec)

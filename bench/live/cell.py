"""One arm at one setting: its devices started, warmed up, asked, and ended."""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from bench.arms import WARM_UP_TOKENS, Arm, Where
from bench.live.asking import Answered, Ask, Begin, Ended, Failed, Job, Told, Warm
from bench.live.cloud import LoggedStep
from bench.live.fleet import Devices, Fleet
from bench.live.processes import Child, LiveError, first_of
from bench.records import RequestRecord

CLIENT = (sys.executable, "-m", "bench.live.client")
_READY_S = 60.0
_LEAD_S = 0.2
_QUIET_S = 300.0
"""No answer for so long, and the run is given up: a round over the slowest link takes seconds."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked in a cell, by device, and how. `asks` of a device are in its order."""

    asks: Sequence[Sequence[Ask]]
    is_closed: bool
    temperature: float
    seed: int
    timelines: Sequence[int]
    num_warm_up: int

    def job(self, device: int, url: str, where: Where) -> Job:
        """What the client of one device is told; it warms up with its first prompts, cut short."""
        asks = list(self.asks[device])
        warm_up = [asks[n % len(asks)] for n in range(self.num_warm_up)] if asks else []
        short = [
            msgspec.structs.replace(each, max_tokens=min(each.max_tokens, WARM_UP_TOKENS))
            for each in warm_up
        ]
        return Job(
            device=device,
            url=url,
            warm_up=short,
            asks=asks,
            is_closed=self.is_closed,
            temperature=self.temperature,
            seed=self.seed,
            timelines=list(self.timelines),
            ready_within_s=_READY_S,
            where=where,
        )


@dataclass(frozen=True, slots=True)
class CellResult:
    """Requests by number, the clouds' steps of that time, and their engine."""

    requests: list[RequestRecord]
    steps: list[LoggedStep]
    engine: str


async def run_cell(fleet: Fleet, arm: Arm, load: Load, on_answer: Callable[[], None]) -> CellResult:
    """Run one arm once.

    Raises:
        LiveError: a program ended or failed.
    """
    devices = await fleet.start(arm)
    clients: list[_Client] = []
    try:
        for device, url in enumerate(devices.urls):
            client = _Client(load.job(device, url, arm.where), on_answer)
            clients.append(client)
            child = await fleet.start_client(device, CLIENT, client.take)
            await client.begin(child)
        await _all(devices, clients, "warm")
        begin_unix_s = time.time() + _LEAD_S
        for client in clients:
            await client.tell(Begin(begin_unix_s))
        await _all(devices, clients, "ended")
    finally:
        children = [client.child for client in clients if client.child is not None]
        await fleet.forget([*children, *devices.children])
    requests = [record for client in clients for record in client.records]
    end_unix_s = max(client.ended_unix_s for client in clients)
    steps = [
        step
        for cloud in devices.clouds
        for step in cloud.steps
        if begin_unix_s <= step.ended_unix_s <= end_unix_s
    ]
    in_order = sorted(requests, key=lambda record: record.number)
    return CellResult(in_order, steps, str(devices.clouds[0].engine))


class _Client:
    """One device's user, as its process tells it."""

    def __init__(self, job: Job, on_answer: Callable[[], None]) -> None:
        self.child: Child | None = None
        self.warm = asyncio.Event()
        self.ended = asyncio.Event()
        self.failure: str | None = None
        self.records: list[RequestRecord] = []
        self.ended_unix_s = 0.0
        self.num_told = 0
        self._job = job
        self._on_answer = on_answer

    async def begin(self, child: Child) -> None:
        """Give the process its job."""
        self.child = child
        await child.write(msgspec.json.encode(self._job))

    async def until(self, name: str) -> None:
        """Wait until it is warm, or has ended.

        Raises:
            LiveError: it failed.
        """
        assert self.child is not None
        event = {"warm": self.warm, "ended": self.ended}[name]
        try:
            await first_of(self.child, event, None, name)
        except LiveError as error:
            raise LiveError(self.failure or str(error)) from error

    async def tell(self, begin: Begin) -> None:
        """Let it run."""
        assert self.child is not None
        await self.child.write(msgspec.json.encode(begin))

    def take(self, line: bytes) -> None:
        """A line of its output."""
        self.num_told += 1
        match msgspec.json.decode(line, type=Told):
            case Warm():
                self.warm.set()
            case Answered(record):
                self.records.append(record)
                self._on_answer()
            case Ended(unix_s):
                self.ended_unix_s = unix_s
                self.ended.set()
            case Failed(reason):
                self.failure = reason


async def _all(devices: Devices, clients: Sequence[_Client], name: str) -> None:
    """Wait until every client is `name`, while all programs live and something happens.

    Raises:
        LiveError: otherwise.
    """
    clouds = [cloud.child for cloud in devices.clouds if cloud.child is not None]
    ends = [asyncio.create_task(child.ended()) for child in (*clouds, *devices.children)]
    done: asyncio.Future[Any] = asyncio.gather(*(client.until(name) for client in clients))
    try:
        while not done.done():
            before = sum(client.num_told for client in clients)
            waits: list[asyncio.Future[Any]] = [done, *ends]
            await asyncio.wait(waits, timeout=_QUIET_S, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                if end.done():
                    raise LiveError(end.result())
            if not done.done() and before == sum(client.num_told for client in clients):
                raise LiveError(f"no answer came for {_QUIET_S:g} s")
        await done
    finally:
        done.cancel()
        for end in ends:
            end.cancel()
        await asyncio.gather(done, *ends, return_exceptions=True)

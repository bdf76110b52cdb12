"""An arm that runs: its devices, and for each a client that has warmed up and asks when told."""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bench.arms import Arm
from bench.live.asking import Answered, Begin, Ended, Job, Load, Told, Warm
from bench.live.cloud import Cloud
from bench.live.fleet import Devices, Fleet
from bench.live.processes import Child, LiveError, first_of
from bench.records import RequestRecord

CLIENT = (sys.executable, "-m", "bench.live.client")
_LEAD_S = 0.2
_QUIET_S = 300.0
"""No answer for so long, and the run is given up: a round over the slowest link takes seconds."""


class RunningArm:
    """`start` begins one and `stop` ends it; `ask` between them, as often as there are requests."""

    def __init__(self, fleet: Fleet, devices: Devices) -> None:
        self._fleet = fleet
        self._devices = devices
        self._clients: list[_Client] = []

    @classmethod
    async def start(
        cls, fleet: Fleet, arm: Arm, loads: Sequence[Load], on_answer: Callable[[], None]
    ) -> "RunningArm":
        """Start an arm, with a load for each device, and wait until all are warm.

        Raises:
            LiveError: a program ended or failed.
        """
        running = cls(fleet, await fleet.start(arm))
        try:
            for load, url in zip(loads, running._devices.urls, strict=True):
                await running._start_client(Job(url, arm.where, load), on_answer)
            await running._all("warm")
        except BaseException:
            await running.stop()
            raise
        return running

    async def ask(self, num_asks: int | None = None) -> tuple[float, float]:
        """Have each client ask its next requests, so many or all; the first and the last moment.

        Both are on the wall clock.

        Raises:
            LiveError: a program ended or failed.
        """
        for client in self._clients:
            client.ended.clear()
        begun_unix_s = time.time() + _LEAD_S
        for client in self._clients:
            await client.child.write(msgspec.json.encode(Begin(begun_unix_s, num_asks)))
        await self._all("ended")
        return begun_unix_s, max(client.ended_unix_s for client in self._clients)

    async def stop(self) -> None:
        """End its devices and clients; the cloud stays for other arms."""
        clients = [client.child for client in self._clients]
        await self._fleet.forget([*clients, *self._devices.children])

    @property
    def clouds(self) -> tuple[Cloud, ...]:
        """Which may be other arms' clouds too."""
        return self._devices.clouds

    @property
    def requests(self) -> list[RequestRecord]:
        """What was answered until now, by number."""
        found = [record for client in self._clients for record in client.records]
        return sorted(found, key=lambda record: record.number)

    async def _start_client(self, job: Job, on_answer: Callable[[], None]) -> None:
        client = _Client(on_answer)
        client.child = await self._fleet.start_client(job.load.device, CLIENT, client.take)
        self._clients.append(client)
        await client.child.write(msgspec.json.encode(job))

    async def _all(self, name: str) -> None:
        """Wait until every client is `name`, while all programs live and something happens.

        Raises:
            LiveError: otherwise.
        """
        clients = self._clients
        clouds = [cloud.child for cloud in self.clouds if cloud.child is not None]
        children = (*clouds, *self._devices.children)
        ends = [asyncio.create_task(child.ended()) for child in children]
        waits_of = (first_of(each.child, getattr(each, name), None, name) for each in clients)
        done: asyncio.Future[Any] = asyncio.gather(*waits_of)
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


class _Client:
    """One device's user, as its process tells it."""

    child: Child

    def __init__(self, on_answer: Callable[[], None]) -> None:
        self.warm, self.ended = asyncio.Event(), asyncio.Event()
        self.records: list[RequestRecord] = []
        self.ended_unix_s = 0.0
        self.num_told = 0
        self._on_answer = on_answer

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

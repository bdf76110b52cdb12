"""One arm at one setting: its devices started, warmed up, asked, and ended."""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from bench.arms import Arm
from bench.live.asking import Answered, Begin, Ended, Job, Load, Told, Warm
from bench.live.cloud import LoggedStep
from bench.live.fleet import Devices, Fleet
from bench.live.processes import Child, LiveError, first_of
from bench.records import RequestRecord

CLIENT = (sys.executable, "-m", "bench.live.client")
_LEAD_S = 0.2
_QUIET_S = 300.0
"""No answer for so long, and the run is given up: a round over the slowest link takes seconds."""


@dataclass(frozen=True, slots=True)
class CellResult:
    """Requests by number, the clouds' steps of that time, and their engine."""

    requests: list[RequestRecord]
    steps: list[LoggedStep]
    engine: str


async def run_cell(
    fleet: Fleet, arm: Arm, loads: Sequence[Load], on_answer: Callable[[], None]
) -> CellResult:
    """Run one arm once, with a load for each device.

    Raises:
        LiveError: a program ended or failed.
    """
    devices = await fleet.start(arm)
    clients: list[_Client] = []
    try:
        for load, url in zip(loads, devices.urls, strict=True):
            client = _Client(on_answer)
            client.child = await fleet.start_client(load.device, CLIENT, client.take)
            clients.append(client)
            await client.child.write(msgspec.json.encode(Job(url, arm.where, load)))
        await _all(devices, clients, "warm")
        begin_unix_s = time.time() + _LEAD_S
        for client in clients:
            await client.child.write(msgspec.json.encode(Begin(begin_unix_s)))
        await _all(devices, clients, "ended")
    finally:
        await fleet.forget([*(client.child for client in clients), *devices.children])
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

    child: Child

    def __init__(self, on_answer: Callable[[], None]) -> None:
        self.events = {"warm": asyncio.Event(), "ended": asyncio.Event()}
        self.records: list[RequestRecord] = []
        self.ended_unix_s = 0.0
        self.num_told = 0
        self._on_answer = on_answer

    def take(self, line: bytes) -> None:
        """A line of its output."""
        self.num_told += 1
        match msgspec.json.decode(line, type=Told):
            case Warm():
                self.events["warm"].set()
            case Answered(record):
                self.records.append(record)
                self._on_answer()
            case Ended(unix_s):
                self.ended_unix_s = unix_s
                self.events["ended"].set()


async def _all(devices: Devices, clients: Sequence[_Client], name: str) -> None:
    """Wait until every client is `name`, while all programs live and something happens.

    Raises:
        LiveError: otherwise.
    """
    clouds = [cloud.child for cloud in devices.clouds if cloud.child is not None]
    ends = [asyncio.create_task(child.ended()) for child in (*clouds, *devices.children)]
    waits_of = (first_of(each.child, each.events[name], None, name) for each in clients)
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

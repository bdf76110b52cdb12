"""Arms at one setting: one by itself from its first request to its last, or all in turns."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from bench.arms import Arm
from bench.live.asking import Load
from bench.live.cloud import LoggedStep
from bench.live.fleet import Fleet
from bench.live.plan import in_turn
from bench.live.running import RunningArm
from bench.records import RequestRecord


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
    running = await RunningArm.start(fleet, arm, loads, on_answer)
    try:
        begun_unix_s, ended_unix_s = await running.ask()
    finally:
        await running.stop()
    steps = [
        step
        for cloud in running.clouds
        for step in cloud.steps
        if begun_unix_s <= step.ended_unix_s <= ended_unix_s
    ]
    return CellResult(running.requests, steps, str(running.clouds[0].engine))


async def run_in_turns(
    fleet: Fleet, loads: Sequence[tuple[Arm, Load]], on_answer: Callable[[], None]
) -> list[CellResult]:
    """All arms once, each with one device, in their order.

    They run side by side, and only one of them is asked at any time: each request goes to all of
    them before the next one, first to another arm each time. What changes with time, a machine's
    speed first of all, then changes for all arms alike.

    Raises:
        LiveError: a program ended or failed.
    """
    arms: list[RunningArm] = []
    turns: list[tuple[float, RunningArm]] = []
    try:
        for arm, load in loads:
            arms.append(await RunningArm.start(fleet, arm, [load], on_answer))
        for number in range(len(loads[0][1].asks)):
            for one in in_turn(arms, number):
                begun_unix_s, _ = await one.ask(1)
                turns.append((begun_unix_s, one))
    finally:
        for one in arms:
            await one.stop()
    return [
        CellResult(_requests_of(one, turns), _steps_of(one, turns), str(one.clouds[0].engine))
        for one in arms
    ]


def _requests_of(arm: RunningArm, turns: Sequence[tuple[float, RunningArm]]) -> list[RequestRecord]:
    """An arm's requests, whose arrivals count from the first turn of all."""
    waited_s = next(begun_unix_s for begun_unix_s, one in turns if one is arm) - turns[0][0]
    return [
        msgspec.structs.replace(record, arrival_s=record.arrival_s + waited_s)
        for record in arm.requests
    ]


def _steps_of(arm: RunningArm, turns: Sequence[tuple[float, RunningArm]]) -> list[LoggedStep]:
    """Those of its clouds that ended after one of its turns began, and before another arm's."""
    begins = [begun_unix_s for begun_unix_s, _ in turns]

    def is_own(step: LoggedStep) -> bool:
        place = bisect_right(begins, step.ended_unix_s) - 1
        return place >= 0 and turns[place][1] is arm

    return [step for cloud in arm.clouds for step in cloud.steps if is_own(step)]

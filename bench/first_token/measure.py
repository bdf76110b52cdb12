"""Asks for the first token of prompts over one link, arm by arm in turns, and times them."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.arms import Arm
from bench.first_token.bounds import Bound, Stages, bound, oracle_upload_s
from bench.link.measure import MeasuredLink, measure_link
from bench.link.opening import open_link
from bench.link.shaped_link import LinkKind, ShapedLink
from bench.link.shaper import directions
from bench.link.spec import LinkSpec
from bench.live.fleet import Fleet, shared_cores
from bench.live.plan import Setting, in_turn, loads_of, model_record
from bench.live.processes import LiveError
from bench.live.running import RunningArm
from bench.measures import ttft_s
from bench.records import RequestRecord, WorkloadRecord
from bench.workloads.arrivals import CLOSED


@dataclass(frozen=True, slots=True)
class Asked:
    """What is measured over one link."""

    bundles: Path
    link: LinkSpec
    num_tokens: int
    """Of each prompt."""
    num_prompts: int
    pause_s: float = 0.0
    """Before each prompt, so that the link has been idle."""
    dtype: str = "auto"
    """Of layers and rows; auto: the bundle's."""
    kind: LinkKind | None = None
    """None: the most faithful."""


@dataclass(frozen=True, slots=True)
class First:
    """One prompt, by one arm."""

    arm: str
    seconds: float
    bound: Bound
    bytes_up: int
    num_tokens: int
    num_chunks: int
    is_same: bool
    """Whether its token is the first arm's."""

    @property
    def over_bound(self) -> float:
        """1 is the bound."""
        return self.seconds / self.bound.seconds


async def first_tokens(
    asked: Asked, arms: tuple[Arm, ...], on_answer: Callable[[], None]
) -> list[First]:
    """All prompts by all arms; the first arm sends prompts whole, and tells the stages' times.

    Raises:
        LiveError: a program ended or failed.
        LinkError, LinkSpecError, WorkloadError: the link or the prompts are not to be had.
    """
    spec = asked.link
    with open_link(spec, kind=asked.kind) as link:
        # Of a recorded link measuring says nothing of the moments to come.
        measured = None if spec.trace else await asyncio.to_thread(measure_link, link)
        turns = await _turns(asked, link, arms, on_answer)
        opened_s = _opened_s(link)
    least_step_s = min(min(turn.steps_s) for each in turns.values() for turn in each)
    stages = [_stages(turn, least_step_s, spec, measured) for turn in turns[arms[0].name]]
    found = []
    for arm in arms:
        for own, reference, turn in zip(stages, turns[arms[0].name], turns[arm.name], strict=True):
            upload_s = _upload_s(turn, spec, opened_s)
            is_same = turn.record.output_sha256 == reference.record.output_sha256
            found.append(_first(arm, turn, bound(own, upload_s), is_same))
    return found


@dataclass(frozen=True, slots=True)
class _Turn:
    """One request: when it was asked, by the monotonic clock, and the steps of its cloud."""

    record: RequestRecord
    begun_s: float
    steps_s: list[float]


async def _turns(
    asked: Asked, link: ShapedLink, arms: tuple[Arm, ...], on_answer: Callable[[], None]
) -> dict[str, list[_Turn]]:
    workload = WorkloadRecord(
        name=f"books:{asked.num_tokens}",
        arrivals=CLOSED,
        num_devices=1,
        num_requests=asked.num_prompts,
        max_output_tokens=1,
        temperature=0.0,
    )
    setting = Setting(asked.bundles, asked.link, workload, arms, dtype=asked.dtype, num_warm_up=2)
    setting_loads = loads_of(setting, seed=0)
    dtype = model_record(asked.bundles, asked.dtype).dtype
    fleet = Fleet(asked.bundles, [link], shared_cores(), dtype)
    turns: dict[str, list[_Turn]] = {arm.name: [] for arm in arms}
    running: dict[str, RunningArm] = {}
    try:
        for arm in arms:
            running[arm.name] = await RunningArm.start(fleet, arm, setting_loads, on_answer)
        for number in range(asked.num_prompts):
            for arm in in_turn(arms, number):
                await asyncio.sleep(asked.pause_s)
                turns[arm.name].append(await _turn(running[arm.name], number))
    finally:
        for one in running.values():
            await one.stop()
        await fleet.close()
    return turns


async def _turn(arm: RunningArm, number: int) -> _Turn:
    """Ask one prompt of an arm."""
    begun_unix_s, ended_unix_s = await arm.ask(1)
    record = arm.requests[number]
    if record.error is not None or not record.emissions:
        raise LiveError(f"a request failed: {record.error}")
    steps = arm.clouds[0].steps
    own = [step.seconds for step in steps if begun_unix_s <= step.ended_unix_s <= ended_unix_s]
    return _Turn(record, begun_unix_s - time.time() + time.monotonic(), own)


def _opened_s(link: ShapedLink) -> float | None:
    figures = link.figures()
    return None if figures is None else figures.started_s


def _stages(
    turn: _Turn, least_step_s: float, spec: LinkSpec, measured: MeasuredLink | None
) -> Stages:
    rtt_s = spec.rtt_s if measured is None else measured.rtt_s["p50"]
    device_s = turn.record.seconds["input"]
    return Stages(device_s, sum(turn.steps_s), least_step_s, rtt_s)


def _upload_s(turn: _Turn, spec: LinkSpec, opened_s: float | None) -> float:
    """By the rate that the link was given: one measured for a second may be off by a tenth."""
    if opened_s is None and spec.trace:
        raise LiveError("a recorded link is compared only where a relay tells when it was opened")
    begun_s = 0.0 if opened_s is None else turn.begun_s - opened_s
    return oracle_upload_s(directions(spec)[0].rate, begun_s, turn.record.bytes_up)


def _first(arm: Arm, turn: _Turn, least: Bound, is_same: bool) -> First:
    seconds = ttft_s(turn.record)
    assert seconds is not None, "it was looked at when it came"
    record = turn.record
    return First(
        arm=arm.name,
        seconds=seconds,
        bound=least,
        bytes_up=record.bytes_up,
        num_tokens=record.prompt_tokens,
        num_chunks=len(record.chunk_tokens),
        is_same=is_same,
    )

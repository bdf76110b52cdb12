"""What goes wrong in a simulation heals as it does in production, and every answer is right."""

import asyncio
from dataclasses import replace

import pytest

from bench.records import RequestRecord
from bench.sim.asking import Asking
from bench.sim.cloud import Replica
from bench.sim.device import Device
from bench.sim.run import simulate
from bench.sim.scenario import Request, Scenario, Trouble
from device_runtime.link.config import Patience
from process.virtual_loop import run_virtual
from tests.support.bench_sim_scenarios import cloud, scenario

_CROWD = tuple((0.03 * number, 60, 30) for number in range(12))


def troubled(*troubles: Trouble, arm: str = "hat", **changes: object) -> list[RequestRecord]:
    one = scenario(arm, _CROWD, num_devices=4)
    return simulate(replace(one, troubles=troubles, **changes)).requests


def answers(records: list[RequestRecord]) -> list[int]:
    """Tokens of every answer; a wrong or a missing one fails."""
    assert [record.error for record in records] == [None] * len(records)
    return [record.output_tokens for record in records]


@pytest.mark.parametrize("arm", ["hat", "u-shape", "hat-no-ahead"])
def test_cut_sockets_cost_time_and_no_token(arm: str) -> None:
    calm = troubled(arm=arm)
    cut = troubled(Trouble(0.25, "cut"), Trouble(0.9, "cut"), arm=arm)
    assert answers(cut) == answers(calm) == [30] * 12
    recovery_s = [record.seconds["recovery"] for record in cut]
    assert sum(seconds > 0 for seconds in recovery_s) > 4
    # What the cloud still holds need not go up again: at most what was under way does.
    assert sum(r.bytes_up for r in cut) < 1.5 * sum(r.bytes_up for r in calm)


def test_a_killed_cloud_loses_every_session_and_devices_bring_them_back() -> None:
    calm, killed = troubled(), troubled(Trouble(0.5, "kill", down_s=2.0))
    assert answers(killed) == [30] * 12
    hit = [record for record in killed if record.seconds["recovery"] > 0]
    assert hit
    assert all(record.seconds["recovery"] >= 2.0 for record in hit)
    # Prompts and what was decided go up again.
    assert sum(r.bytes_up for r in killed) > 1.2 * sum(r.bytes_up for r in calm)


def test_who_has_less_patience_than_the_cloud_is_away_hears_of_it() -> None:
    one = scenario("hat", _CROWD, num_devices=4)
    hasty = replace(one.arm, device=replace(one.arm.device, reconnect_timeout_s=1.0))
    gone = replace(one, arm=hasty, troubles=(Trouble(0.8, "kill", down_s=20.0),))
    errors = [record.error for record in simulate(gone).requests]
    assert set(errors) == {None, "unavailable"}
    waiting = replace(one, troubles=(Trouble(0.8, "kill", down_s=20.0),))
    assert answers(simulate(waiting).requests) == [30] * 12


def test_silence_is_ended_by_patience_and_the_session_is_opened_again() -> None:
    # A step of 3 s is longer than the session may be silent: the same session is asked for again.
    slow = scenario("u-shape", ((0.0, 60, 4),))
    patience = Patience(open_s=1.0, reply_s=1.0)
    step = replace(slow.cloud.step_time, fixed_s=3.0)
    one = replace(slow, patience=patience, cloud=replace(slow.cloud, step_time=step))
    (record,) = simulate(one).requests
    assert answers([record]) == [4]
    assert record.seconds["recovery"] > 0


def test_the_same_trouble_gives_the_same_figures() -> None:
    troubles = (Trouble(0.25, "cut"), Trouble(0.7, "kill"))
    assert troubled(*troubles) == troubled(*troubles)


def _keeping(common_tokens: int = 400) -> Scenario:
    one = scenario("hat", ((0.0, 420, 8), (3.0, 430, 8), (6.0, 440, 8), (6.0, 425, 8)))
    asked = tuple(replace(request, common_tokens=common_tokens) for request in one.requests)
    device = replace(one.arm.device, kept_sessions=4)
    return replace(one, requests=asked, arm=replace(one.arm, device=device))


def test_a_common_beginning_is_forked_and_need_not_go_up_again() -> None:
    first, *others = simulate(_keeping()).requests
    assert answers([first, *others]) == [8] * 4
    assert sum(first.chunk_tokens) == 420
    assert [sum(record.chunk_tokens) for record in others] == [30, 40, 25]
    alone = simulate(_keeping(common_tokens=0)).requests
    assert [sum(record.chunk_tokens) for record in alone] == [420, 430, 440, 425]


def test_forks_at_one_moment_are_right_each_and_nothing_is_left_behind() -> None:
    one = _keeping()

    async def run() -> list[RequestRecord]:
        replicas = [Replica(one.cloud)]
        device = Device(one, 0, replicas)
        await device.ready()
        again = [Request(number, 0, 0.0, 420, 8, common_tokens=200) for number in range(4)]
        first = await Asking(device, again[0]).record()
        rest = await asyncio.gather(*(Asking(device, request).record() for request in again[1:]))
        await device.runtime.close()
        await asyncio.sleep(2 * one.cloud.core.session_ttl_s)
        assert device.engine.sequences == {}
        assert replicas[0].middle.sequences == {}
        return [first, *rest]

    records = run_virtual(run)
    assert answers(records) == [8] * 4
    assert [sum(record.chunk_tokens) for record in records] == [420, 220, 220, 220]


def test_a_row_of_another_text_gives_a_wrong_answer() -> None:
    one = scenario("u-shape")

    async def run() -> str | None:
        replica = Replica(one.cloud)
        device = Device(one, 0, [replica])
        await device.ready()
        asking = asyncio.create_task(Asking(device, one.requests[0]).record())
        await asyncio.sleep(0.15)
        (numbers,) = replica.middle.sequences.values()
        numbers.put([7], 3)
        numbers.put(list(range(59)), 4)
        return (await asking).error

    assert run_virtual(run) == "wrong"


def test_a_cloud_that_is_full_makes_kept_sessions_give_way() -> None:
    one = _keeping(common_tokens=0)
    one = replace(one, requests=one.requests[:3], cloud=cloud(capacity_tokens=900))
    assert answers(simulate(one).requests) == [8] * 3

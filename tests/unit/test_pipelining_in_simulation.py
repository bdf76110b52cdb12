"""The whole device over a long link, in virtual time: what sending drafts on brings and costs."""

from dataclasses import replace

import pytest

from bench.link.spec import LinkSpec
from bench.records import Cell
from bench.sim.run import simulate
from bench.sim.scenario import Scenario, Trouble
from bench.sim.world.acceptance import AcceptanceTable
from tests.support.bench_sim_scenarios import scenario

FAR = LinkSpec(2.5e6, 5e6, delay_s=0.075)
"""A round trip of 150 ms."""


def far(arm: str, acceptance: float, num_tokens: int = 300) -> Scenario:
    """Three answers, one after the other."""
    asked = tuple((60.0 * number, 40, num_tokens) for number in range(3))
    table = AcceptanceTable((1.0,), (1.0,), (acceptance,))
    return replace(scenario(arm, asked, link=FAR), acceptance=table)


def tokens_per_s(cell: Cell) -> float:
    """Of the answers' parts behind their first tokens."""
    assert all(record.error is None for record in cell.requests), "every token is the target's"
    spent_s = sum(each.emissions[-1][0] - each.emissions[0][0] for each in cell.requests)
    return sum(each.output_tokens - each.emissions[0][1] for each in cell.requests) / spent_s


def test_over_a_long_link_good_drafts_bring_more_tokens_per_second_when_they_are_sent_on() -> None:
    with_it, without = (simulate(far(arm, 0.9)) for arm in ("hat", "hat-no-ahead"))
    assert tokens_per_s(with_it) > 1.25 * tokens_per_s(without)
    assert sum(each.stale_rows for each in with_it.requests) > 0
    assert sum(each.pipelined_rows for each in without.requests) == 0


def test_poor_drafts_are_hardly_ever_sent_on_and_cost_no_more_than_two_percent() -> None:
    with_it, without = (simulate(far(arm, 0.3)) for arm in ("hat", "hat-no-ahead"))
    assert tokens_per_s(with_it) > 0.98 * tokens_per_s(without)
    rows = [each.pipelined_rows for each in with_it.requests]
    assert sum(rows) < 0.05 * sum(with_it.cloud_step_tokens)


def test_over_a_thin_uplink_stale_rows_cost_no_more_than_two_percent() -> None:
    thin = LinkSpec(40e3, 5e6, delay_s=0.01)
    cells = []
    for arm in ("hat", "hat-no-ahead"):
        one = far(arm, 0.75)
        device = replace(one.devices[0], link=thin)
        cells.append(simulate(replace(one, devices=(device,))))
    assert tokens_per_s(cells[0]) > 0.98 * tokens_per_s(cells[1])


@pytest.mark.parametrize("kind", ["cut", "kill"])
def test_answers_go_on_when_rounds_under_way_are_lost(kind: str) -> None:
    moments = (1.31, 2.77, 4.02)
    troubles = tuple(Trouble(moment, kind) for moment in moments)  # type: ignore[arg-type]
    cell = simulate(replace(far("hat", 0.9), troubles=troubles))
    assert tokens_per_s(cell) > 0
    assert sum(each.pipelined_rows for each in cell.requests) > 0

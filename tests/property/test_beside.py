"""Prompts beside those who decode: nobody waits much longer than alone, and prompts go on.

A linear engine, decoders who are away for a while between rounds, and prompts without end; time is
what steps and absences add up to.
"""

import heapq
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.measures import percentile
from bench.steps.decoders_and_prompts import Bench, Load, Result, measure
from bench.steps.worlds import SimulatedWorld, StepTimes
from cloud_server.core.actions import SequenceHandle
from cloud_server.core.scheduling.beside import Beside
from cloud_server.core.scheduling.pace import Pace
from tests.support.cloud_core import CONFIG, Cloud, opening, shallow_rows, states
from tests.support.examples import at_most
from wire.messages import Want

TARGET_S, MOST, ROUND_ROWS = 0.25, 512, 5
ONE = SequenceHandle(1)
PACED = replace(CONFIG, step_budget_tokens=MOST, target_step_s=TARGET_S)


@dataclass(frozen=True)
class Case:
    fixed_s: float
    row_s: float
    away_s: float
    num_decoders: int = 8

    def seconds(self, num_rows: int) -> float:
        return self.fixed_s + num_rows * self.row_s


@dataclass(frozen=True)
class Seen:
    rounds_s: list[float]
    prompt_rows_per_s: float


def play(case: Case, has_prompt: bool, is_ruled: bool, num_steps: int = 800) -> Seen:
    """What rounds take, and how fast prompts go; the first half is left out."""
    pace, beside = Pace(PACED), Beside(TARGET_S)
    now, rounds_s, num_prompt_rows, from_s = 0.0, [], 0, 0.0
    due = [(0.001 * number, number) for number in range(case.num_decoders)]
    replied_s = dict.fromkeys(range(case.num_decoders), 0.0)
    for number in range(num_steps):
        if number == num_steps // 2:
            rounds_s, num_prompt_rows, from_s = [], 0, now
        if not (has_prompt and number >= num_steps // 4):
            now = max(now, due[0][0])
        here = []
        while due and due[0][0] <= now:
            came_s, one = heapq.heappop(due)
            beside.note_round(SequenceHandle(one), came_s - replied_s[one], came_s)
            here.append(one)
        num_verified = ROUND_ROWS * len(here)
        budget = pace.budget_tokens
        handles = [SequenceHandle(one) for one in here]
        is_prompt = has_prompt and number >= num_steps // 4
        num_chunk = max(1, budget // 8, budget - num_verified) if is_prompt else 0
        if is_ruled and is_prompt:
            fitting = beside.prompt_tokens(handles, num_verified, now)
            num_chunk = num_chunk if fitting is None else min(num_chunk, fitting)
        seconds = case.seconds(num_verified + num_chunk)
        now += seconds
        num_prompt_rows += num_chunk
        pace.observe(num_verified + num_chunk, seconds)
        beside.observe(handles, num_verified, num_chunk, seconds, now)
        for one in here:
            rounds_s.append(now - replied_s[one])
            replied_s[one] = now
            heapq.heappush(due, (now + case.away_s, one))
    return Seen(rounds_s, num_prompt_rows / (now - from_s))


def seen(case: Case) -> tuple[Seen, Seen]:
    """Quiet, and beside prompts that begin when decoders have been measured."""
    return play(case, False, True), play(case, True, True)


@settings(max_examples=at_most(60))
@given(
    fixed_s=st.floats(0.001, 0.03),
    row_s=st.floats(1e-5, 1e-3),
    away_s=st.floats(0.02, 0.3),
    num_decoders=st.integers(1, 16),
)
def test_rounds_take_about_half_as_long_again_at_the_most(fixed_s, row_s, away_s, num_decoders):
    case = Case(fixed_s, row_s, away_s, num_decoders)
    quiet, beside = seen(case)
    least_s = percentile(quiet.rounds_s, 50)
    # Prompts go on, also where those who decode are hardly away.
    third_s = 3.1 * case.seconds(num_decoders * ROUND_ROWS)
    assert percentile(beside.rounds_s, 99) <= max(1.55 * least_s, away_s + third_s)


@settings(max_examples=at_most(60))
@given(
    fixed_s=st.floats(0.001, 0.03),
    row_s=st.floats(1e-5, 1e-3),
    away_s=st.floats(0.0, 0.3),
    num_decoders=st.integers(1, 16),
)
def test_prompts_have_a_tenth_of_what_the_engine_can_do(fixed_s, row_s, away_s, num_decoders):
    case = Case(fixed_s, row_s, away_s, num_decoders)
    beside = play(case, True, True)
    full = case.seconds(MOST + num_decoders * ROUND_ROWS)
    assert beside.prompt_rows_per_s >= 0.1 * MOST / max(full, TARGET_S / 4)


@pytest.mark.parametrize("away_s", [0.05, 0.1, 0.2])
def test_the_rule_is_what_keeps_rounds_short(away_s):
    case = Case(0.004, 0.0004, away_s)
    quiet = percentile(play(case, False, True).rounds_s, 50)
    with_rule = percentile(play(case, True, True).rounds_s, 99)
    without = percentile(play(case, True, False).rounds_s, 99)
    assert with_rule <= 1.6 * quiet
    assert without >= 1.2 * with_rule


GROWING = StepTimes(fixed_s=0.004, sequence_s=0.001, row_s=0.00033, pair_s=2e-7)
"""Rows are dearer the more there is before them, and sequences cost too."""


def through_the_core(away_s: float) -> Result:
    """Eight who decode, and prompts of 2,048 rows, before the production core."""
    world = SimulatedWorld(GROWING)
    config = world.settings(num_decoders=8)
    payload = bytes(world.row_bytes * config.max_frame_tokens)
    bench = Bench(config, world, Load(away_s=away_s), payload)
    return measure(bench, 8, num_prompts=3, quiet_s=1.5)


@pytest.mark.parametrize(("away_s", "most_of_alone"), [(0.005, 3.5), (0.04, 1.8), (0.1, 1.3)])
def test_rounds_stay_short_where_rows_of_a_prompt_grow_dearer_towards_its_end(
    away_s, most_of_alone
):
    found = through_the_core(away_s)
    assert found.beside_s[1] <= 1.52 * found.quiet_s[1]
    assert found.prompt_s <= most_of_alone * found.alone_s


def test_the_last_rows_of_a_prompt_are_not_taken_for_a_round_of_somebody_who_decodes(monkeypatch):
    told = []
    monkeypatch.setattr(Beside, "observe", lambda _, *step: told.append(step))
    cloud = Cloud()
    device = cloud.connect()
    cloud.send(device, opening(1, 1))
    cloud.send(device, states(1, 0, shallow_rows(*range(9)), Want.LAST))
    cloud.run_all()
    assert len(told) > 1
    assert sum(num_prompt for _, _, num_prompt, *_ in told) == 9
    assert not any(verified for verified, *_ in told)


def test_a_step_without_verifications_ends_when_somebody_is_expected_back():
    beside = Beside(TARGET_S)
    now = learnt(beside, away_s=0.06, cloud_s=0.02)
    row_s = 0.0005
    for num_rows in (20, 80, 80, 80):
        beside.observe([], 0, num_rows, num_rows * row_s, now)
    tokens = beside.prompt_tokens([], 0, now + 0.02)
    assert tokens is not None
    assert 0.03 <= tokens * row_s <= 0.045


def test_who_waited_for_a_step_gets_a_shorter_one():
    beside = Beside(TARGET_S)
    now = learnt(beside, away_s=0.06, cloud_s=0.02)
    beside.observe([], 0, 80, 0.04, now)
    beside.note_round(ONE, 0.06, now + 0.06)
    at_once = beside.prompt_tokens([ONE], ROUND_ROWS, now + 0.06)
    late = beside.prompt_tokens([ONE], ROUND_ROWS, now + 0.06 + 0.035)
    assert at_once is not None
    assert late is not None
    assert late < at_once


def learnt(beside: Beside, away_s: float, cloud_s: float) -> float:
    """After some quiet rounds; when the last one ended."""
    now = 0.0
    for _ in range(20):
        beside.note_round(ONE, away_s, now)
        now += cloud_s
        beside.observe([ONE], ROUND_ROWS, 0, cloud_s, now)
        now += away_s
    return now - away_s


def test_the_next_prompt_of_somebody_whose_answer_has_ended_is_not_held_back():
    beside = Beside(TARGET_S)
    for number in range(20):
        now = 0.03 * number
        beside.note_round(ONE, 0.02, now)
        beside.observe([ONE], ROUND_ROWS, 0, 0.01, now + 0.01)
    assert beside.prompt_tokens([], 0, now + 0.05) is not None
    assert beside.prompt_tokens([], 0, now + 0.13) is None


def test_who_sends_a_prompt_himself_does_not_hold_it_back():
    beside = Beside(TARGET_S)
    beside.note_round(ONE, 0.02, 0.0)
    beside.observe([ONE], ROUND_ROWS, 0, 0.01, 0.01)
    beside.forget(ONE)
    assert beside.prompt_tokens([], 0, 0.02) is None
    beside.observe([ONE], ROUND_ROWS, 0, 0.01, 0.03)
    assert beside.prompt_tokens([], 0, 0.03) is None

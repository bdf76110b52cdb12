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
from cloud_server.core.actions import SequenceHandle
from cloud_server.core.scheduling.beside import Beside
from cloud_server.core.scheduling.pace import Pace
from tests.support.cloud_core import CONFIG
from tests.support.examples import at_most

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
    pace, beside = Pace(PACED), Beside(TARGET_S, MOST)
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
        most = min(budget, (beside.step_tokens(now) if is_ruled else None) or budget)
        is_prompt = has_prompt and number >= num_steps // 4
        num_chunk = max(1, budget // 8, most - num_verified) if is_prompt else 0
        seconds = case.seconds(num_verified + num_chunk)
        now += seconds
        num_prompt_rows += num_chunk
        pace.observe(num_verified + num_chunk, seconds)
        handles = [SequenceHandle(one) for one in here]
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
    # Prompts keep an eighth of the budget, however slow the engine, and a third of its time.
    kept_s = 2 * case.seconds(MOST // 8)
    kept_s += 2 * num_decoders * ROUND_ROWS * row_s
    third_s = 3.1 * case.seconds(num_decoders * ROUND_ROWS)
    bound_s = max(1.6 * least_s, away_s + kept_s, away_s + third_s)
    assert percentile(beside.rounds_s, 99) <= bound_s


@settings(max_examples=at_most(60))
@given(
    fixed_s=st.floats(0.001, 0.03),
    row_s=st.floats(1e-5, 1e-3),
    away_s=st.floats(0.0, 0.3),
    num_decoders=st.integers(1, 16),
)
def test_prompts_have_a_quarter_of_what_the_engine_can_do(fixed_s, row_s, away_s, num_decoders):
    case = Case(fixed_s, row_s, away_s, num_decoders)
    beside = play(case, True, True)
    full = case.seconds(MOST + num_decoders * ROUND_ROWS)
    assert beside.prompt_rows_per_s >= 0.25 * MOST / max(full, TARGET_S / 4)


@pytest.mark.parametrize("away_s", [0.05, 0.1, 0.2])
def test_the_rule_is_what_keeps_rounds_short(away_s):
    case = Case(0.004, 0.0004, away_s)
    quiet = percentile(play(case, False, True).rounds_s, 50)
    with_rule = percentile(play(case, True, True).rounds_s, 99)
    without = percentile(play(case, True, False).rounds_s, 99)
    assert with_rule <= 1.6 * quiet
    assert without >= 1.2 * with_rule


def test_the_next_prompt_of_somebody_whose_answer_has_ended_is_not_held_back():
    beside = Beside(TARGET_S, MOST)
    for number in range(20):
        now = 0.03 * number
        beside.note_round(ONE, 0.02, now)
        beside.observe([ONE], ROUND_ROWS, 0, 0.01, now + 0.01)
    assert beside.step_tokens(now + 0.05) is not None
    assert beside.step_tokens(now + 0.13) is None


def test_who_sends_a_prompt_himself_does_not_hold_it_back():
    beside = Beside(TARGET_S, MOST)
    beside.note_round(ONE, 0.02, 0.0)
    beside.observe([ONE], ROUND_ROWS, 0, 0.01, 0.01)
    beside.forget(ONE)
    assert beside.step_tokens(0.02) is None
    beside.observe([ONE], ROUND_ROWS, 0, 0.01, 0.03)
    assert beside.step_tokens(0.03) is None

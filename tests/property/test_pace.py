"""The step budget: steps near the target on engines of any speed, from the first one on."""

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_server.core.scheduling.pace import Pace
from tests.support.cloud_core import CONFIG
from tests.support.examples import at_most

TARGET_S = 0.25
MOST = 512
PACED = replace(CONFIG, step_budget_tokens=MOST, target_step_s=TARGET_S)


@dataclass(frozen=True)
class Engine:
    """What a step takes: something for each, more per row, and more per row of context."""

    fixed_s: float
    row_s: float
    row_context_s: float = 0.0

    def seconds(self, num_rows: int, num_cached: int = 0) -> float:
        return self.fixed_s + num_rows * (self.row_s + self.row_context_s * num_cached)

    @property
    def limit_s(self) -> float:
        """Twice the least step, where that is beyond the target."""
        return max(TARGET_S, 2 * self.seconds(8, 0))


engines = st.builds(Engine, st.floats(0.0, 0.1), st.floats(1e-6, 0.02))


@given(engine=engines, num_rows=st.integers(500, 3000))
def test_a_long_prompt_runs_in_steps_of_the_target_from_the_first_one_on(
    engine: Engine, num_rows: int
) -> None:
    pace, seconds, num_left = Pace(PACED), [], num_rows
    while num_left:
        step = min(pace.budget_tokens, num_left)
        seconds.append(engine.seconds(step))
        pace.observe(step, seconds[-1])
        num_left -= step
    assert max(seconds) <= max(engine.seconds(16), 1.01 * engine.limit_s)
    # And it moves: not much slower than in steps that are exactly of the target.
    best = max(1, min(MOST, int((TARGET_S - engine.fixed_s) / engine.row_s)))
    assert len(seconds) <= 8 + 2 * num_rows / best


@given(engine=engines, decoded=st.lists(st.integers(1, 8), max_size=40))
def test_verifications_never_hold_the_budget_below_what_fits(
    engine: Engine, decoded: list[int]
) -> None:
    pace = Pace(PACED)
    for num_rows in decoded:
        pace.observe(num_rows, engine.seconds(num_rows))
    for _ in range(12):
        pace.observe(pace.budget_tokens, engine.seconds(pace.budget_tokens))
    assert engine.seconds(pace.budget_tokens) <= 1.01 * engine.limit_s or pace.budget_tokens == 1
    more = 2 * pace.budget_tokens + 1
    assert more > MOST or engine.seconds(more) > TARGET_S


@settings(max_examples=at_most(50))
@given(engine=engines, late_s=st.floats(1.0, 60.0), data=st.data())
def test_a_late_step_is_forgotten_within_a_few(
    engine: Engine, late_s: float, data: st.DataObject
) -> None:
    pace = Pace(PACED)
    for _ in range(20):
        pace.observe(pace.budget_tokens, engine.seconds(pace.budget_tokens))
    settled = pace.budget_tokens
    pace.observe(data.draw(st.integers(5, 512)), late_s)
    assert pace.budget_tokens >= settled // 4
    for _ in range(8):
        pace.observe(pace.budget_tokens, engine.seconds(pace.budget_tokens))
    assert pace.budget_tokens >= settled // 2


@given(context_s=st.floats(1e-7, 1e-5), row_s=st.floats(1e-4, 1e-2), back=st.integers(0, 8192))
def test_rows_that_grow_dearer_with_their_context_are_followed(
    context_s: float, row_s: float, back: int
) -> None:
    engine = Engine(0.01, row_s, context_s)
    pace, position = Pace(PACED), 0
    seconds = []
    while position < 8192:
        step = min(pace.budget_tokens, 8192 - position)
        seconds.append(engine.seconds(step, position))
        pace.observe(step, seconds[-1])
        position += step
    assert max(seconds) <= max(engine.seconds(16), 4 * TARGET_S)
    # Another prompt, anywhere: its first steps may be too long by as much as its rows are cheaper
    # or dearer, and no longer than that.
    first = engine.seconds(pace.budget_tokens, back)
    assert first <= max(4 * TARGET_S, engine.seconds(1, back) * 4)


def test_without_a_target_the_budget_stays() -> None:
    pace = Pace(replace(PACED, target_step_s=0))
    pace.observe(MOST, 100.0)
    assert pace.budget_tokens == MOST


def test_an_engine_whose_least_step_is_beyond_the_target_gets_steps_of_twice_that() -> None:
    engine, pace = Engine(1.0, 0.01), Pace(PACED)
    for _ in range(50):
        pace.observe(1, engine.seconds(1))
        pace.observe(pace.budget_tokens, engine.seconds(pace.budget_tokens))
    assert 50 <= pace.budget_tokens <= 110

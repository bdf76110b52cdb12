"""Step times: a table that never falls, and a retry time."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_server.core.scheduling.load import StepTimes, suggest_retry_s

observations = st.lists(
    st.tuples(st.integers(1, 4096), st.floats(1e-6, 10.0)), min_size=1, max_size=40
)


def observed(steps: list[tuple[int, float]]) -> StepTimes:
    times = StepTimes()
    for num_tokens, seconds in steps:
        times.observe(num_tokens, seconds)
    return times


def estimate(times: StepTimes, num_tokens: float) -> float:
    seconds = times.estimate_s(num_tokens)
    assert seconds is not None
    return seconds


@given(steps=observations, sizes=st.lists(st.integers(1, 10000), min_size=2, max_size=20))
def test_a_larger_step_is_never_expected_to_be_faster(
    steps: list[tuple[int, float]], sizes: list[int]
) -> None:
    times = observed(steps)
    expected = [estimate(times, size) for size in sorted(sizes)]
    assert all(early <= late * (1 + 1e-9) for early, late in itertools.pairwise(expected))


@given(steps=observations, size=st.integers(1, 4096))
def test_an_estimate_stays_within_what_was_seen_up_to_that_size(
    steps: list[tuple[int, float]], size: int
) -> None:
    times = observed(steps)
    assert min(s for _, s in steps) * (1 - 1e-9) <= estimate(times, size)
    if size <= max(n for n, _ in steps) / 2:
        assert estimate(times, size) <= max(s for _, s in steps) * (1 + 1e-9)


@given(num_tokens=st.integers(1, 5000), past=st.floats(0.001, 1), new=st.floats(0.001, 1))
def test_the_past_weighs_four_fifths(num_tokens: int, past: float, new: float) -> None:
    times = observed([(num_tokens, past), (num_tokens, new)])
    assert estimate(times, num_tokens) == pytest.approx(0.8 * past + 0.2 * new)


@given(fixed=st.floats(0, 0.01), per_token=st.floats(1e-6, 1e-3), size=st.integers(1, 4096))
def test_a_linear_cost_is_learned_to_within_the_table(
    fixed: float, per_token: float, size: int
) -> None:
    times = observed([(2**n, fixed + per_token * 2**n) for n in range(13)])
    assert estimate(times, size) == pytest.approx(fixed + per_token * size)


def test_before_the_first_step_nothing_is_known() -> None:
    times = StepTimes()
    times.observe(0, 1.0)
    assert times.estimate_s(5) is None
    assert suggest_retry_s(1000, 512, times) == 0.5


@given(queued=st.integers(0, 10**6), more=st.integers(0, 10**6), seconds=st.floats(0.001, 5))
def test_the_retry_time_grows_with_the_queue_within_bounds(
    queued: int, more: int, seconds: float
) -> None:
    times = observed([(512, seconds)])
    retry_s = suggest_retry_s(queued, 512, times)
    assert 0.5 <= retry_s <= suggest_retry_s(queued + more, 512, times) <= 30
    assert retry_s >= min(30.0, seconds * queued / 512)
    assert retry_s in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0), "no finer"

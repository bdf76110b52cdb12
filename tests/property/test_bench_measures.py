"""Properties of the measures: what must hold for any answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.measures import emission_gaps_s, percentile, tbt_s
from tests.support.bench_runs import made_up_request

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)
gaps = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 8)), min_size=1, max_size=30)


def _emissions(gaps_s: list[tuple[float, int]]) -> list[tuple[float, int]]:
    times = np.cumsum([gap for gap, _ in gaps_s]).tolist()
    return [(time_s, count) for time_s, (_, count) in zip(times, gaps_s, strict=True)]


@given(values=values, percent=st.floats(0, 100))
def test_a_percentile_is_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent), abs=1e-6)


@given(gaps_s=gaps)
def test_times_between_tokens_sum_to_the_time_after_the_first_piece(
    gaps_s: list[tuple[float, int]],
) -> None:
    emissions = _emissions(gaps_s)
    request = made_up_request(emissions)
    between = tbt_s(request)
    assert len(between) == request.output_tokens - emissions[0][1]
    after_s = emissions[-1][0] - emissions[0][0]
    assert sum(between) == pytest.approx(after_s, abs=1e-9)
    assert sum(emission_gaps_s(request)) == pytest.approx(after_s, abs=1e-9)


@given(gaps_s=gaps)
def test_token_by_token_both_kinds_of_gaps_are_the_same(gaps_s: list[tuple[float, int]]) -> None:
    request = made_up_request(_emissions([(gap, 1) for gap, _ in gaps_s]))
    assert tbt_s(request) == emission_gaps_s(request)

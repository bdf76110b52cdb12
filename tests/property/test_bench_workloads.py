"""Arrivals and fits, for any rate, number and seed."""

import math
from statistics import NormalDist, mean

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bench.workloads.arrivals import ARRIVALS, TRACES, arrivals
from bench.workloads.lengths import LENGTHS, fit_affine, fit_lognormal, lengths

Z90 = NormalDist().inv_cdf(0.9)
rates = st.floats(0.01, 1000)
seeds = st.integers(0, 2**32)
counts = st.integers(0, 300)


@given(kind=st.sampled_from(ARRIVALS), num_requests=counts, rate_per_s=rates, seed=seeds)
def test_arrivals_are_in_order_as_many_as_asked_and_the_same_each_time(
    kind: str, num_requests: int, rate_per_s: float, seed: int
) -> None:
    times = arrivals(kind, num_requests, rate_per_s, seed)
    assert len(times) == num_requests
    assert times == sorted(times)
    assert all(time >= 0 for time in times)
    assert times == arrivals(kind, num_requests, rate_per_s, seed)


@given(
    kind=st.sampled_from(list(TRACES)),
    num_requests=st.integers(2, 300),
    rate_per_s=rates,
    seed=seeds,
)
def test_recorded_arrivals_have_the_mean_rate_asked_for(
    kind: str, num_requests: int, rate_per_s: float, seed: int
) -> None:
    times = arrivals(kind, num_requests, rate_per_s, seed)
    # A burst within one millisecond has no gaps to stretch.
    assume(times[-1] > 0)
    assert times[0] == 0
    assert times[-1] / (num_requests - 1) == pytest.approx(1 / rate_per_s)


@given(name=st.sampled_from(LENGTHS), num_requests=counts, seed=seeds)
def test_lengths_are_of_one_token_or_more_and_the_same_each_time(
    name: str, num_requests: int, seed: int
) -> None:
    drawn = lengths(name, num_requests, seed)
    assert len(drawn) == num_requests
    assert all(min(one.prompt_tokens, one.output_tokens) >= 1 for one in drawn)
    assert drawn == lengths(name, num_requests, seed)


@given(mean_value=st.floats(1, 1e5), share=st.floats(0, 0.999))
def test_a_log_normal_has_the_mean_and_p90_it_was_fitted_to(
    mean_value: float, share: float
) -> None:
    p90 = mean_value * math.exp(share * Z90**2 / 2)
    mu, sigma = fit_lognormal(mean_value, p90)
    assert math.exp(mu + sigma**2 / 2) == pytest.approx(mean_value)
    assert math.exp(mu + Z90 * sigma) == pytest.approx(p90)


@pytest.mark.parametrize("p90", [99.0, 228.0])
def test_a_log_normal_that_does_not_exist_is_refused(p90: float) -> None:
    with pytest.raises(ValueError, match="no log-normal"):
        fit_lognormal(100.0, p90)


@given(
    values=st.lists(st.integers(1, 5000), min_size=10, max_size=60),
    wanted_mean=st.floats(10, 1000),
    stretch=st.floats(0.1, 5),
)
def test_stretched_values_have_the_mean_and_p90_they_were_fitted_to(
    values: list[int], wanted_mean: float, stretch: float
) -> None:
    own_p90 = sorted(values)[math.ceil(0.9 * len(values)) - 1]
    assume(own_p90 > mean(values) + 1)
    wanted_p90 = wanted_mean + stretch * (own_p90 - mean(values))
    scale, offset = fit_affine([float(value) for value in values], wanted_mean, wanted_p90)
    stretched = sorted(value * scale + offset for value in values)
    assert mean(stretched) == pytest.approx(wanted_mean)
    assert stretched[math.ceil(0.9 * len(values)) - 1] == pytest.approx(wanted_p90)

"""A system that keeps up with its load is told from one that does not, whatever the draws."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sim.run import simulate
from bench.sim.scenario import OpenLoad, Scenario
from bench.sim.steady import NUM_BATCHES, SAMPLES_PER_S, State, backlog, judge
from bench.workloads.arrivals import arrivals
from tests.support.bench_sim_scenarios import scenario

pytestmark = pytest.mark.slow

STAY_S = 2.0
seeds = st.integers(0, 10_000)


def _queue(seed: int, load: float, duration_s: float, rate: float = 50.0) -> list[float]:
    """The backlog of a server that finishes `rate / load` requests a second, each a stay later."""
    draws = random.Random(seed)
    num = int(1.3 * rate * duration_s)
    come = list(accumulate(draws.expovariate(rate) for _ in range(num)))
    free_s, served = 0.0, []
    for moment in come:
        free_s = max(free_s, moment) + draws.expovariate(rate / load)
        served.append(free_s + STAY_S)
    return backlog(come, served, duration_s)


@given(seed=seeds, load=st.floats(0.05, 0.8))
def test_a_system_with_room_to_spare_never_seems_to_grow(seed: int, load: float) -> None:
    for duration_s in (20.0, 40.0, 80.0):
        assert judge(_queue(seed, load, duration_s), 50.0).state is not State.GROWING
    verdict = judge(_queue(seed, load, 160.0), 50.0, is_last=True)
    assert verdict.state is State.SETTLED
    assert verdict.warm_up_s <= 80.0


@given(seed=seeds, load=st.floats(1.5, 10.0), duration_s=st.sampled_from([40.0, 80.0]))
def test_a_system_that_falls_behind_never_seems_settled_and_its_growth_is_right(
    seed: int, load: float, duration_s: float
) -> None:
    verdict = judge(_queue(seed, load, duration_s), 50.0, is_last=True)
    assert verdict.state is State.GROWING
    expected = 50.0 * (1 - 1 / load)
    # At least half of the run counts, in which so many come and go, give or take.
    allowed = 5 * math.sqrt((50.0 + 50.0 / load) / (duration_s / 2))
    assert abs(verdict.growth_per_s - expected) < allowed


@given(seed=seeds, empty_s=st.integers(2, 12))
def test_the_warm_up_is_cut(seed: int, empty_s: int) -> None:
    """A system that fills for some seconds and then keeps its level."""
    draws = random.Random(seed)
    level, num = 100.0, 60 * SAMPLES_PER_S
    filling = [min(1.0, at / (empty_s * SAMPLES_PER_S)) for at in range(num)]
    samples = [level * share + draws.gauss(0, 3) for share in filling]
    verdict = judge(samples, 50.0)
    assert verdict.state is State.SETTLED
    assert verdict.warm_up_s >= 0.7 * empty_s
    kept = samples[round(verdict.warm_up_s * SAMPLES_PER_S) :]
    assert abs(fmean(kept) - level) < 2
    assert len(kept) % NUM_BATCHES == 0


@given(
    gaps=st.lists(st.floats(0.01, 2), min_size=1, max_size=40),
    stays=st.lists(st.floats(0.01, 9), min_size=40, max_size=40),
    until_s=st.floats(0.3, 30),
)
def test_the_backlog_is_what_has_come_and_was_not_answered(
    gaps: Sequence[float], stays: Sequence[float], until_s: float
) -> None:
    come = list(accumulate(gaps))
    ends = [at + stay for at, stay in zip(come, stays, strict=False)]
    samples = backlog(come, sorted(ends), until_s)
    assert len(samples) == int(until_s * SAMPLES_PER_S)
    for place, value in enumerate(samples):
        now = (place + 1) / SAMPLES_PER_S
        assert value == sum(at <= now < end for at, end in zip(come, ends, strict=True))


def _open(seed: int, rate: float, num_devices: int = 40) -> Scenario:
    load = OpenLoad(6.0, rate)
    times = arrivals("poisson", load.num_requests, rate, seed)
    asked = tuple((at, 60, 12) for at in times)
    return replace(scenario("hat", asked, num_devices, seed=seed), open_load=load)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_simulated_cloud_settles_below_its_limit_and_grows_above_it(seed: int) -> None:
    calm = simulate(_open(seed, 20.0))
    assert calm.steady is not None
    assert calm.steady.is_settled
    assert all(request.error is None for request in calm.requests)
    assert all(
        calm.steady.warm_up_s <= request.arrival_s <= calm.steady.until_s
        for request in calm.requests
    )
    rate = len(calm.requests) / (calm.steady.until_s - calm.steady.warm_up_s)
    assert 8 < rate < 35
    busy = simulate(_open(seed, 200.0))
    assert busy.steady is not None
    assert busy.steady.state == "growing"
    assert busy.steady.growth_per_s > 30
    assert busy.steady.backlog > 100


@pytest.mark.parametrize("seed", [0])
def test_few_devices_that_cannot_keep_up_are_told_as_such_too(seed: int) -> None:
    steady = simulate(_open(seed, 60.0, num_devices=2)).steady
    assert steady is not None
    assert steady.state == "growing"

"""The model of a step's time finds the costs of any linear engine, and follows them."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_server.core.scheduling.step_model import StepModel
from tests.support.examples import at_most

costs = {
    "fixed_s": st.floats(0.0005, 0.05),
    "verified_s": st.floats(1e-5, 2e-3),
    "prompt_s": st.floats(1e-5, 2e-3),
    "seed": st.integers(0, 999),
}


def taught(fixed_s, verified_s, prompt_s, seed, num_steps, growth=1.0):
    """A model after steps of all mixes, whose prompt rows grow dearer; what the next takes; and
    with how many prompt rows a step takes about four times what it takes without."""
    model, draw = StepModel(), random.Random(seed)
    most_rows = max(4, int(3 * (fixed_s + 40 * verified_s) / prompt_s))
    for _ in range(num_steps):
        num_verified = draw.choice([0, 5, 20, 40])
        num_prompt = draw.randrange(0 if num_verified else 1, most_rows)
        seconds = fixed_s + verified_s * num_verified + prompt_s * num_prompt
        model.observe(num_verified, num_prompt, seconds * draw.lognormvariate(0, 0.03))
        prompt_s *= growth
    return model, lambda v, p: fixed_s + verified_s * v + prompt_s * p, most_rows


@settings(max_examples=at_most(100))
@given(**costs)
def test_what_any_mix_takes_is_known_after_some_steps(fixed_s, verified_s, prompt_s, seed):
    model, truth, most = taught(fixed_s, verified_s, prompt_s, seed, 60)
    for mix in ((40, 0), (40, most // 2), (5, most // 2), (0, most)):
        assert model.seconds(*mix) == pytest.approx(truth(*mix), rel=0.35)


@settings(max_examples=at_most(50))
@given(**costs)
def test_it_follows_rows_that_grow_dearer(fixed_s, verified_s, prompt_s, seed):
    model, truth, most = taught(fixed_s, verified_s, prompt_s, seed, 60, growth=1.02)
    assert model.seconds(20, most) == pytest.approx(truth(20, most), rel=0.35)


@settings(max_examples=at_most(100))
@given(limit_s=st.floats(0.001, 0.5), num_verified=st.integers(0, 80), **costs)
def test_as_many_rows_as_fit_a_time_and_no_more(
    limit_s, num_verified, fixed_s, verified_s, prompt_s, seed
):
    model, *_ = taught(fixed_s, verified_s, prompt_s, seed, 30)
    fitting = model.num_prompt_rows(num_verified, limit_s)
    if fitting:
        assert model.seconds(num_verified, fitting) <= limit_s * (1 + 1e-9)
    assert model.seconds(num_verified, fitting + 2) > limit_s


def test_one_late_step_is_soon_forgotten():
    model, truth, _ = taught(0.005, 0.0005, 0.0003, 1, 40)
    model.observe(40, 100, 5.0)
    assert model.seconds(40, 100) <= 3.1 * truth(40, 100)
    for _ in range(5):
        model.observe(40, 100, truth(40, 100))
    assert model.seconds(40, 100) == pytest.approx(truth(40, 100), rel=0.15)


def test_of_no_step_nothing_is_known():
    model = StepModel()
    model.observe(0, 0, 0.01)
    assert not model.is_known
    assert model.seconds(5, 5) == 0.0
    assert model.num_prompt_rows(0, 1.0) == 0

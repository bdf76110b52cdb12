import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.sampling.filters import candidates
from device_runtime.sampling.noise import PositionNoise
from device_runtime.sampling.sampler import Sampler, log_probabilities, most_likely
from tests.support import sampling_reference as reference
from tests.support.examples import at_most

VOCAB_SIZE = 12
token_ids = st.integers(0, VOCAB_SIZE - 1)
# A coarse grid makes ties between tokens common.
rows = st.lists(
    st.integers(-8, 8).map(lambda value: value / 2), min_size=VOCAB_SIZE, max_size=VOCAB_SIZE
)
params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.25, 0.7, 1.0, 3.0]),
    top_p=st.sampled_from([1.0, 0.93, 0.5, 0.113, 0.0001]),
    top_k=st.sampled_from([0, 1, 2, 5, 50]),
    min_p=st.sampled_from([0.0, 0.031, 0.27]),
    presence_penalty=st.sampled_from([0.0, 0.55, -1.5]),
    frequency_penalty=st.sampled_from([0.0, 0.3, -0.2]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    logit_bias=st.dictionaries(token_ids, st.sampled_from([-100.0, -1.25, 2.5]), max_size=3),
    allowed_token_ids=st.none() | st.lists(token_ids, min_size=1, max_size=VOCAB_SIZE),
    bad_words=st.lists(st.lists(token_ids, min_size=1, max_size=3), max_size=3),
)
requests = st.builds(
    GenerationRequest,
    prompt_ids=st.lists(token_ids, min_size=1, max_size=6),
    max_tokens=st.just(20),
    sampling=params,
    stop_token_ids=st.frozensets(token_ids, max_size=3),
    min_tokens=st.integers(0, 4),
)


def as_row(values):
    return np.array(values, dtype=np.float32)


def sampler_after(request, output):
    sampler = Sampler(request, VOCAB_SIZE, PositionNoise(5))
    for token in output:
        sampler.commit(token, as_row([0.0] * VOCAB_SIZE))
    return sampler


def dense(field):
    weights = np.zeros(VOCAB_SIZE)
    weights[field.token_ids] = field.weights
    return weights / weights.sum()


@settings(max_examples=at_most(300), deadline=None)
@given(
    values=rows,
    request=requests,
    output=st.lists(token_ids, max_size=5),
    data=st.data(),
    # Drafters pass on what they have at hand.
    sequence=st.sampled_from([list, tuple, np.array]),
)
def test_the_distribution_is_the_blackboards_however_the_prefix_is_split_in_output_and_draft(
    values, request, output, data, sequence
):
    assume(reference.nucleus_margin(values, request, output) > 1e-9)
    expected = reference.distribution(values, request, output)
    cut = data.draw(st.integers(0, len(output)))
    sampler = sampler_after(request, output[:cut])
    for _ in range(2):
        got = dense(sampler.distribution(as_row(values), sequence(output[cut:])))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-12)


@settings(max_examples=at_most(200), deadline=None)
@given(values=rows, request=requests, output=st.lists(token_ids, max_size=5))
def test_greedy_takes_the_lowest_of_the_most_likely_tokens(values, request, output):
    greedy = GenerationRequest(
        prompt_ids=request.prompt_ids,
        max_tokens=20,
        sampling=SamplingParams(temperature=0.0, logit_bias=request.sampling.logit_bias),
        stop_token_ids=request.stop_token_ids,
        min_tokens=request.min_tokens,
    )
    expected = reference.processed(values, greedy, output)
    chosen = sampler_after(greedy, output).choose(as_row(values))
    assert chosen == expected.index(max(expected))


@given(
    values=st.lists(st.floats(-1e4, 1e4), min_size=VOCAB_SIZE, max_size=VOCAB_SIZE),
    temperature=st.sampled_from([5e-324, 1e-300, 1e-5, 2.0]),
    top_p=st.sampled_from([0.0, 1e-300, 1.0]),
    min_p=st.sampled_from([0.0, 5e-324, 1.0]),
    repetition_penalty=st.sampled_from([5e-324, 1e-300, 1e-9, 10.0]),
    draft=st.lists(token_ids, max_size=3),
)
def test_the_ends_of_every_range_still_give_a_distribution(
    values, temperature, top_p, min_p, repetition_penalty, draft
):
    params = SamplingParams(temperature, top_p, 0, min_p, repetition_penalty=repetition_penalty)
    request = GenerationRequest(prompt_ids=(0, 1, 2), max_tokens=20, sampling=params)
    sampler = sampler_after(request, ())
    field = sampler.distribution(as_row(values), draft)
    assert np.isfinite(field.weights).all()
    assert field.weights.max() == 1.0
    if top_p < 1.0:
        assert len(field.token_ids) == 1
    assert sampler.choose(as_row(values), draft) in field.token_ids


@given(values=rows, request=requests)
def test_a_choice_is_always_one_of_the_candidates_and_leaves_the_logits_alone(values, request):
    row = as_row(values)
    sampler = sampler_after(request, ())
    assert sampler.choose(row) in sampler.distribution(row).token_ids
    np.testing.assert_array_equal(row, as_row(values))


@given(values=rows, request=requests, num=st.integers(1, VOCAB_SIZE))
def test_choices_are_different_candidates_and_the_first_is_the_one_chosen(values, request, num):
    row = as_row(values)
    sampler = sampler_after(request, ())
    choices = sampler.choices(row, num)
    assert choices[0] == sampler.choose(row)
    assert len(set(choices)) == len(choices) <= num


@settings(max_examples=at_most(40), deadline=None)
@given(seed=st.integers(0, 2**32), top_p=st.sampled_from([0.05, 0.5, 0.9, 0.999]))
def test_the_nucleus_of_a_large_vocabulary_is_the_shortest_run_that_holds_the_mass(seed, top_p):
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=20_000) * rng.uniform(0.1, 6.0)).astype(np.float32)
    field = candidates(logits.astype(np.float64), SamplingParams(top_p=top_p))
    probabilities = np.exp(log_probabilities(logits))
    mass = probabilities[field.token_ids].sum()
    assert mass >= top_p - 1e-12
    assert mass - probabilities[field.token_ids].min() < top_p + 1e-12
    outside = np.delete(probabilities, field.token_ids)
    assert outside.max() <= probabilities[field.token_ids].min() + 1e-12


@given(values=rows, num=st.integers(0, VOCAB_SIZE + 3))
def test_log_probabilities_are_the_models_own_and_the_top_ones_come_in_order(values, num):
    logprobs = log_probabilities(as_row(values))
    total = sum(math.exp(value) for value in values)
    assert logprobs == pytest.approx([value - math.log(total) for value in values], abs=1e-9)
    order = sorted(range(VOCAB_SIZE), key=lambda token: (-values[token], token))
    assert [token for token, _ in most_likely(logprobs, num)] == order[:num]


@given(
    seed=st.integers(-(2**63), 2**64),
    position=st.integers(0, 2**32),
    picked=st.frozensets(st.integers(0, 999), min_size=1),
)
def test_noise_of_a_token_depends_on_seed_position_and_token_alone(seed, position, picked):
    noise = PositionNoise(seed)
    ids = np.array(sorted(picked))
    every = noise(position, np.arange(1000))
    np.testing.assert_array_equal(noise(position, ids), every[ids])
    assert not np.array_equal(noise(position + 1, ids), every[ids])
    assert not np.array_equal(PositionNoise(seed + 1)(position, ids), every[ids])

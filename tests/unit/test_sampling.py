import numpy as np
import pytest

from device_runtime.generation.request import GenerationRequest, SamplingParams, Token
from device_runtime.sampling.noise import PositionNoise
from device_runtime.sampling.sampler import LogitsError, Sampler

GREEDY = SamplingParams(temperature=0.0)


def make_sampler(params=GREEDY, vocab_size=4, **fields):
    request = GenerationRequest(prompt_ids=(0,), max_tokens=8, sampling=params, **fields)
    return Sampler(request, vocab_size, PositionNoise(1))


def row(*values):
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(), SamplingParams(top_p=0.5)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_logits_are_refused(params, bad):
    with pytest.raises(LogitsError, match="numbers are broken"):
        make_sampler(params).choose(row(0.0, bad, 1.0, 2.0))


def test_logits_of_another_vocabulary_are_refused():
    with pytest.raises(LogitsError, match=r"expected logits \[4\], got \[3\]"):
        make_sampler().choose(row(0.0, 1.0, 2.0))


def test_a_mask_that_forbids_every_token_is_an_error():
    sampler = make_sampler(stop_token_ids=frozenset(range(4)), min_tokens=1)
    with pytest.raises(LogitsError, match="all are forbidden"):
        sampler.choose(row(0.0, 1.0, 2.0, 3.0))


def test_logit_bias_outside_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"outside \[0, 4\)"):
        make_sampler(SamplingParams(logit_bias={4: 1.0}))


def test_a_stop_token_is_forbidden_until_min_tokens_are_committed():
    sampler = make_sampler(stop_token_ids=frozenset({3, 99}), min_tokens=1)
    logits = row(0.0, 1.0, 2.0, 3.0)
    assert sampler.choose(logits) == 2
    assert sampler.choose(logits, draft=[2]) == 3
    sampler.commit(2, logits)
    assert sampler.choose(logits) == 3


def test_a_vanishing_temperature_and_a_zero_top_p_are_greedy():
    logits = row(1.0, 3.0, 3.0, 2.0)
    assert make_sampler(SamplingParams(temperature=1.0, top_p=0.0)).choose(logits) == 1
    assert make_sampler(SamplingParams(temperature=1e-300, top_k=1)).choose(logits) in (1, 2)


def test_a_committed_token_carries_the_log_probabilities_asked_for():
    logits = row(0.0, 0.0, -np.inf, 0.0)
    assert make_sampler().commit(1, logits) == Token(1)
    assert make_sampler(num_logprobs=0).commit(1, logits) == Token(1, pytest.approx(-np.log(3)))
    token = make_sampler(num_logprobs=2).commit(3, logits)
    assert [top for top, _ in token.top] == [0, 1]


def test_log_probabilities_ignore_bias_and_temperature():
    params = SamplingParams(temperature=0.1, logit_bias={0: 50.0})
    token = make_sampler(params, num_logprobs=1).commit(0, row(0.0, 0.0, 0.0, 0.0))
    assert token.logprob == pytest.approx(-np.log(4))


def test_noise_is_the_same_on_every_machine_and_release():
    draws = PositionNoise(1234)(7, np.array([0, 1, 511]))
    assert draws == pytest.approx(
        [0.2650508218779401, 2.0839324391069733, 0.09670351179671437], rel=1e-12
    )

"""Speculative text is distributed as the model's own, and the check would notice if it were not."""

import math

import numpy as np
import pytest

from device_runtime.generation.request import SamplingParams
from device_runtime.sampling.noise import PositionNoise
from device_runtime.sampling.sampler import Sampler
from tests.support.speculative_text import (
    PROMPT,
    VOCAB_SIZE,
    Decoder,
    logits_after,
    looks_right,
    probabilities,
    request_with,
)

NUM_TEXTS = 2500
PLAIN = SamplingParams(temperature=0.9)
PENALISED = SamplingParams(temperature=1.3, frequency_penalty=1.5, repetition_penalty=1.4)
FILTERED = SamplingParams(temperature=1.2, top_p=0.83, presence_penalty=0.7, logit_bias={1: 0.4})


def no_draft(seed, tokens):
    return ()


def likeliest(seed, tokens):
    drafted = ()
    for _ in range(2):
        drafted += (int(logits_after((*tokens, *drafted)).argmax()),)
    return drafted


def unlikeliest(seed, tokens):
    return (int(logits_after(tokens).argmin()), 0)


def from_another_distribution(seed, tokens):
    """A draft model of its own, racing with the same noise, as the adapter will."""
    sampler = Sampler(request_with(PLAIN), VOCAB_SIZE, PositionNoise(seed))
    for token in tokens[len(PROMPT) :]:
        sampler.commit(token, logits_after(()))
    drafted = ()
    for _ in range(2):
        row = logits_after((*tokens, *drafted)) * np.float32(0.3)
        drafted += (sampler.choose(row, drafted),)
    return drafted


def what_the_noise_favours(seed, tokens):
    """An adversary that sees the noise and guesses from it alone."""
    return (int(PositionNoise(seed)(len(tokens), np.arange(VOCAB_SIZE)).argmin()), seed % 3)


DRAFTERS = [no_draft, likeliest, unlikeliest, from_another_distribution, what_the_noise_favours]


def texts(decoder):
    return [decoder.text(seed) for seed in range(NUM_TEXTS)]


@pytest.mark.parametrize("params", [PLAIN, PENALISED, FILTERED], ids=["plain", "pen", "filtered"])
def test_texts_are_the_models_own_in_distribution_and_the_same_for_every_drafter(params):
    undrafted = texts(Decoder(params, no_draft))
    assert looks_right(undrafted, probabilities(params))
    for drafter in DRAFTERS[1:]:
        decoder = Decoder(params, drafter)
        assert [decoder.text(seed) for seed in range(250)] == undrafted[:250]


class NoiseOfTheNeighbour(Decoder):
    """Every second position reuses the noise of the one before it."""

    def noise(self, seed):
        right = PositionNoise(seed)
        return lambda position, ids: right(position - position % 2, ids)


class NoiseOfTheToken(Decoder):
    """All positions share one noise, as if the counter had been forgotten."""

    def noise(self, seed):
        right = PositionNoise(seed)
        return lambda position, ids: right(0, ids)


class OneTooMany(Decoder):
    """Keeps the first drafted token that the target did not choose."""

    def round(self, output, draft):
        decided = super().round(output, draft)
        if len(decided) <= len(draft):
            return (*decided[:-1], draft[len(decided) - 1])
        return decided


class DrawnAgain(Decoder):
    """Accepts a draft with its probability, but recovers from the whole distribution."""

    def round(self, output, draft):
        if draft:
            weights = np.exp(logits_after(PROMPT + output) / self.params.temperature)
            uniform = math.exp(-self.noise(self.seed)(1000 + len(output), np.array([0]))[0])
            if uniform < weights[draft[0]] / weights.sum():
                self.sampler.commit(draft[0], logits_after(()))
                return draft[:1]
        return super().round(output, ())


class StaleCounts(Decoder):
    """Penalises every row of a round with the counts the round began with."""

    def choose(self, row):
        noise, ahead = self.noise(self.seed), self.num_decided
        stale = Sampler(
            request_with(self.params),
            VOCAB_SIZE,
            lambda position, ids: noise(position + ahead, ids),
        )
        for token in self.output:
            stale.commit(token, row)
        self.num_decided += 1
        return stale.choose(row)

    def round(self, output, draft):
        self.output, self.num_decided = output, 0
        return super().round(output, draft)


@pytest.mark.parametrize(
    ("bug", "params", "drafter"),
    [
        (NoiseOfTheNeighbour, PLAIN, likeliest),
        (NoiseOfTheToken, PLAIN, no_draft),
        (OneTooMany, PLAIN, likeliest),
        (OneTooMany, PLAIN, unlikeliest),
        (DrawnAgain, PLAIN, likeliest),
        (StaleCounts, PENALISED, likeliest),
    ],
)
def test_the_check_notices_a_planted_bug(bug, params, drafter):
    assert not looks_right(texts(bug(params, drafter)), probabilities(params))

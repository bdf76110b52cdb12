"""Short texts over a tiny vocabulary, decoded speculatively, and a test of their distribution.

The model is a function of the whole prefix, so the probability of every text is known exactly.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.sampling.noise import PositionNoise
from device_runtime.sampling.sampler import Sampler
from device_runtime.session.acceptance import walk
from tests.support import sampling_reference

VOCAB_SIZE = 3
NUM_TOKENS = 3
PROMPT = (0, 1)

Draft = Callable[[int, Sequence[int]], Sequence[int]]
"""Drafted tokens for (seed, tokens so far)."""


def logits_after(prefix: Sequence[int]) -> np.ndarray:
    """The model: uneven logits that depend on every token of the prefix."""
    state = 17
    for token in prefix:
        state = (state * 31 + 7 * token + 3) % 1009
    return np.array([((state * (5 + 2 * i)) % 23) / 8 for i in range(VOCAB_SIZE)], np.float32)


def request_with(params: SamplingParams) -> GenerationRequest:
    return GenerationRequest(prompt_ids=PROMPT, max_tokens=NUM_TOKENS, sampling=params)


@dataclass
class Decoder:
    """Speculative decoding in its plainest form; a planted bug overrides one step of it."""

    params: SamplingParams
    draft: Draft

    def text(self, seed: int) -> tuple[int, ...]:
        self.seed = seed
        self.sampler = Sampler(request_with(self.params), VOCAB_SIZE, self.noise(seed))
        output: tuple[int, ...] = ()
        while len(output) < NUM_TOKENS:
            draft = tuple(self.draft(seed, PROMPT + output))[: NUM_TOKENS - len(output) - 1]
            output += self.round(output, draft)
        return output

    def noise(self, seed: int):
        return PositionNoise(seed)

    def round(self, output: tuple[int, ...], draft: tuple[int, ...]) -> tuple[int, ...]:
        rows = [logits_after(PROMPT + output + draft[:index]) for index in range(len(draft) + 1)]
        return walk(draft, lambda index: self.choose(rows[index]), frozenset())

    def choose(self, row: np.ndarray) -> int:
        token = self.sampler.choose(row)
        self.sampler.commit(token, row)
        return token


def probabilities(params: SamplingParams) -> dict[tuple[int, ...], float]:
    """The probability of every text under the model alone."""
    request = request_with(params)
    result = {}
    for text in itertools.product(range(VOCAB_SIZE), repeat=NUM_TOKENS):
        result[text] = math.prod(
            sampling_reference.distribution(
                [float(value) for value in logits_after(PROMPT + text[:index])],
                request,
                text[:index],
            )[text[index]]
            for index in range(NUM_TOKENS)
        )
    return result


def looks_right(texts: Iterable[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> bool:
    """Pearson's chi-square at a level of one in a million, and nothing impossible among the texts.

    The critical value is Wilson and Hilferty's cube-root approximation.
    """
    texts = list(texts)
    counts = dict.fromkeys(expected, 0)
    for text in texts:
        counts[text] += 1
    possible = [text for text, probability in expected.items() if probability > 0]
    if sum(counts[text] for text in possible) != len(texts):
        return False
    statistic = sum(
        (counts[text] - len(texts) * expected[text]) ** 2 / (len(texts) * expected[text])
        for text in possible
    )
    freedom = max(len(possible) - 1, 1)
    spread = 2 / (9 * freedom)
    return statistic < freedom * (1 - spread + 4.75 * math.sqrt(spread)) ** 3

"""What an adapter learns from: tokens, and which of them the target answered."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters.data.corpus import Tokens

Places = NDArray[np.bool_]
"""A mark for each position `[T]`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One text. `answers` are half-open ranges of tokens, in order; of a plain text, all of it."""

    token_ids: Tokens
    answers: tuple[tuple[int, int], ...]

    def cut(self, num_tokens: int) -> "Sample":
        """Its beginning."""
        ends = [(start, min(end, num_tokens)) for start, end in self.answers if start < num_tokens]
        return Sample(self.token_ids[:num_tokens], tuple(ends))

    @property
    def last_only(self) -> "Sample":
        """The same with its last answer only, so that those before are part of the prompt."""
        return Sample(self.token_ids, self.answers[-1:])

    def scored(self) -> Places:
        """Where a draft of the next token is made and can be compared.

        The first token of an answer comes from the target's last prompt row, without a draft.
        """
        return self._marked([(start, end - 1) for start, end in self.answers])

    def fed(self) -> Places:
        """Where a device knows the deep row of the position before: from an answer's first token.

        Deep rows come down for answers, and for the last row of a prompt.
        """
        return self._marked([(max(1, start), end) for start, end in self.answers])

    def _marked(self, ranges: Sequence[tuple[int, int]]) -> Places:
        marks = np.zeros(len(self.token_ids), np.bool_)
        for start, end in ranges:
            marks[start:end] = True
        return marks


def samples_key(samples: Sequence[Sample]) -> str:
    """Every token and every range, as a SHA-256 (hex)."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(repr((len(sample.token_ids), sample.answers)).encode())
        digest.update(sample.token_ids.astype("<i4").tobytes())
    return digest.hexdigest()


def batches_of(samples: Sequence[Sample], batch_size: int) -> list[list[int]]:
    """Indices in batches of texts that are about as long, so that little is padded."""
    by_length = sorted(range(len(samples)), key=lambda index: len(samples[index].token_ids))
    return [by_length[at : at + batch_size] for at in range(0, len(by_length), batch_size)]


def choose_vocabulary(
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
    vocab_size: int,
    coverage: float,
    max_tokens: int,
) -> NDArray[np.int32] | None:
    """The tokens that can be drafted, ascending: the most frequent ones of the answers.

    As many as it takes to cover this share of the answers' tokens in the texts that are held out,
    at most `max_tokens`, in multiples of 256. The share of those that they were counted on would
    promise too much. None, which is all, where the vocabulary is no larger than `max_tokens`.
    """
    if vocab_size <= max_tokens:
        return None
    order = np.argsort(-_counts(samples, vocab_size), kind="stable")
    judged = _counts(held_out, vocab_size)[order]
    covered = np.cumsum(judged) / max(1, judged.sum())
    needed = int(np.searchsorted(covered, coverage)) + 1
    size = min(max_tokens, -(-needed // _VOCABULARY_STEP) * _VOCABULARY_STEP)
    return np.sort(order[:size]).astype(np.int32)


def _counts(samples: Sequence[Sample], vocab_size: int) -> NDArray[np.int64]:
    """How often the answers have each token."""
    counts = np.zeros(vocab_size, np.int64)
    for sample in samples:
        for start, end in sample.answers:
            np.add.at(counts, sample.token_ids[start:end], 1)
    return counts


_VOCABULARY_STEP = 256


def covered_share(samples: Sequence[Sample], vocabulary: NDArray[np.int32] | None) -> float:
    """The share of the answers' tokens that can be drafted."""
    if vocabulary is None:
        return 1.0
    answers = [s.token_ids[start:end] for s in samples for start, end in s.answers]
    tokens = np.concatenate(answers) if answers else np.zeros(0, np.int32)
    return float(np.isin(tokens, vocabulary).mean()) if len(tokens) else 0.0

"""How much of what was said an attack's guesses are, by token and by document. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hat.audit.receipt import Figure
from hat.audit.thresholds import Thresholds

Ids = NDArray[np.int64]


def scored(
    attack: str,
    guesses: Sequence[Ids],
    said: Sequence[Ids],
    thresholds: Thresholds,
    chance: np.random.Generator,
    shuffled: Sequence[Ids] | None = None,
    **more: Any,
) -> Figure:
    """A figure of guesses `[T]` of each document, held against what was said.

    Args:
        attack: Its name.
        guesses: Of the first positions of each document; those behind them do not count, and a
            document that has such is none that can have been read.
        said: What was said, at least as long.
        thresholds: Of verdicts.
        chance: Shuffles labels.
        shuffled: Guesses of the same attack, learnt from shuffled pairs; None: labels are
            shuffled among all positions instead.
        more: Further fields of the figure.
    """
    labels = [ids[: len(guess)] for guess, ids in zip(guesses, said, strict=True)]
    right = [guess == ids for guess, ids in zip(guesses, labels, strict=True)]
    all_labels = np.concatenate(labels)
    num_tokens, num_right = len(all_labels), int(np.concatenate(right).sum())
    if shuffled is None:
        by_chance = np.concatenate(guesses) == chance.permutation(all_labels)
    else:
        by_chance = np.concatenate(shuffled) == all_labels
    prior = float(np.bincount(all_labels).max() / num_tokens)
    whole = [each for each, ids in zip(right, said, strict=True) if len(each) == len(ids)]
    read = [each.mean() >= thresholds.document_read_from for each in whole]
    return Figure(
        attack=attack,
        num_right=num_right,
        num_tokens=num_tokens,
        documents_read=sum(map(bool, read)),
        num_documents=len(read),
        prior=round(prior, 4),
        shuffled=round(float(by_chance.mean()), 4),
        reads=num_right / num_tokens >= prior + thresholds.leaks_above_prior,
        **more,
    )

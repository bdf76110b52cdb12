"""Log probabilities of the model's own distribution, before any bias, penalty or filter."""

import numpy as np
from numpy.typing import NDArray

from device_runtime.engines.engine import Rows


def log_probabilities(logits: Rows) -> NDArray[np.float64]:
    """Log softmax `[V]` of raw logits `[V]`, in float64."""
    shifted = logits.astype(np.float64) - float(logits.max())
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def most_likely(logprobs: NDArray[np.float64], num: int) -> tuple[tuple[int, float], ...]:
    """The `num` largest of `[V]` as (token id, log probability), equal ones by ascending id."""
    num = min(num, len(logprobs))
    if num == 0:
        return ()
    kth = np.partition(logprobs, len(logprobs) - num)[len(logprobs) - num]
    ids = np.flatnonzero(logprobs >= kth)
    order = ids[np.argsort(-logprobs[ids], kind="stable")][:num]
    return tuple((int(token), float(logprobs[token])) for token in order)

"""Penalties on tokens that have occurred, from counts kept as tokens are committed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from device_runtime.generation.request import SamplingParams

_LARGEST = float(np.finfo(np.float64).max)
"""Where a tiny repetition penalty leaves a logit: infinity less infinity would be no number."""


class TokenPenalties:
    """How often each token occurred, and what that does to logits.

    Presence and frequency penalties count generated tokens only; the repetition penalty looks at
    the prompt too. A draft is counted on top for one call and not remembered, so a rejection
    leaves nothing to roll back. Without penalties nothing is allocated.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], vocab_size: int) -> None:
        self._params = params
        self.active = (
            params.repetition_penalty != 1.0
            or params.presence_penalty != 0.0
            or params.frequency_penalty != 0.0
        )
        size = vocab_size if self.active else 0
        self._output_counts = np.zeros(size, dtype=np.int32)
        self._seen = np.zeros(size, dtype=np.bool_)
        if self.active:
            self._seen[np.asarray(prompt_ids, dtype=np.int64)] = True

    def add(self, token_id: int) -> None:
        """Count one generated token."""
        if self.active:
            self._output_counts[token_id] += 1
            self._seen[token_id] = True

    def changes(self, token_id: int, draft: Sequence[int] = ()) -> bool:
        """Whether a token's logit is changed behind what was counted and `draft`."""
        if not self.active or not 0 <= token_id < len(self._seen):
            return False
        if self._params.repetition_penalty != 1.0 and self._seen[token_id]:
            return True
        return bool(self._output_counts[token_id]) or token_id in draft

    def apply(self, logits: NDArray[np.float64], draft: Sequence[int] = ()) -> None:
        """Change logits `[V]` in place, as if `draft` had been generated too.

        Repetition first (divide positive logits, multiply negative ones), then frequency and
        presence (subtract): vLLM's order and OpenAI's definitions.
        """
        if not self.active:
            return
        counts, seen = self._output_counts, self._seen
        # An array, since a tuple as an index stands for one place of many dimensions.
        drafted = np.asarray(draft, dtype=np.int64)
        if drafted.size:
            counts, seen = counts.copy(), seen.copy()
            np.add.at(counts, drafted, 1)
            seen[drafted] = True
        params = self._params
        if params.repetition_penalty != 1.0:
            ids = np.flatnonzero(seen)
            values, factor = logits[ids], params.repetition_penalty
            with np.errstate(over="ignore"):
                raised = np.minimum(values / factor, _LARGEST)
            logits[ids] = np.where(values > 0, raised, values * factor)
        ids = np.flatnonzero(counts)
        logits[ids] -= params.frequency_penalty * counts[ids] + params.presence_penalty

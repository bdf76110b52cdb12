"""Tokens that a request forbids: all but some of them, and those that would end a bad word."""

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from device_runtime.generation.request import SamplingParams


class TokenBans:
    """What may not come next, by the request and by the output so far.

    A bad word is a row of tokens. Its last one is forbidden where the output ends with the others:
    the prompt does not count, as in vLLM. A draft is looked at for one call and not remembered.
    """

    def __init__(self, params: SamplingParams, vocab_size: int) -> None:
        self._others: NDArray[np.bool_] | None = None
        if params.allowed_token_ids is not None:
            self._others = np.ones(vocab_size, dtype=np.bool_)
            self._others[np.asarray(params.allowed_token_ids, dtype=np.int64)] = False
        self._words = params.bad_words
        self.active = self._others is not None or len(self._words) > 0
        longest = max(map(len, self._words), default=1)
        self._output: deque[int] = deque(maxlen=longest - 1)

    def add(self, token_id: int) -> None:
        """Take in a token of the output."""
        self._output.append(token_id)

    def forbidden(self, draft: Sequence[int] = ()) -> Iterator[NDArray[np.bool_ | np.int64]]:
        """Masks `[V]` or ids `[N]`, the strictest wish first, behind the output and `draft`."""
        if self._others is not None:
            yield self._others
        if self._words:
            text = (*self._output, *(int(token) for token in draft))
            ends = [word[-1] for word in self._words if _ends_with(text, word[:-1])]
            yield np.array(ends, dtype=np.int64)


def _ends_with(text: Sequence[int], beginning: Sequence[int]) -> bool:
    return not beginning or tuple(text[-len(beginning) :]) == tuple(beginning)

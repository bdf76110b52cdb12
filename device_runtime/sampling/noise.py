"""The noise of a generation: one vector of unit exponentials per position, made from the seed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WORD = 2**64 - 1


@dataclass(frozen=True, slots=True)
class PositionNoise:
    """Unit exponentials as a pure function of (seed, position, token id).

    Philox is a counter-based generator: the seed is its key and the position the second word of
    its counter, so positions never share a block and any of them can be drawn at any time. Raw
    64-bit words are converted here, since numpy promises their stability between releases and
    that of its distributions not.
    """

    seed: int

    def __call__(self, position: int, token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Draws `[N]`, each in [5e-17, 38], for token ids `[N]`, ascending, at least one."""
        key = np.array([self.seed & _WORD, (self.seed >> 64) & _WORD], dtype=np.uint64)
        counter = np.array([0, position, 0, 0], dtype=np.uint64)
        words = np.random.Philox(key=key, counter=counter).random_raw(int(token_ids[-1]) + 1)
        if len(token_ids) < len(words):
            words = words[token_ids]
        words >>= np.uint64(11)
        draws: NDArray[np.float64] = words.view(np.int64).astype(np.float64)
        draws += 0.5
        draws *= 2.0**-53
        np.log(draws, out=draws)
        return np.negative(draws, out=draws)

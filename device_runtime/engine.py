"""What the device asks of its engine: shallow rows for tokens, logits for deep rows.

All arrays are numpy, float32, on the host. Positions are absolute; writing at a position below
what a sequence holds is the truncation. Engines are used from one thread only.
"""

from collections.abc import Sequence
from typing import NewType, Protocol

import numpy as np
from numpy.typing import NDArray

SequenceId = NewType("SequenceId", int)
Rows = NDArray[np.float32]


class DeviceEngine(Protocol):
    """Input and output submodels with their KV caches, one per sequence."""

    hidden_size: int
    vocab_size: int
    max_context_tokens: int
    num_output_layers: int

    def open(self) -> SequenceId:
        """Make an empty sequence."""
        ...

    def input_rows(self, sequence: SequenceId, token_ids: Sequence[int], position: int) -> Rows:
        """Shallow hidden states `[T, H]` of tokens at `[position, position + T)`.

        Output layers, too, forget what they hold from `position` on.

        Raises:
            ValueError: a position beyond what the sequence holds, a token id outside the
                vocabulary, or more than `max_context_tokens` positions.
        """
        ...

    def logits(self, sequence: SequenceId, deep: Rows, position: int, num_logits: int) -> Rows:
        """Next-token logits `[num_logits, V]` of the last `num_logits` of the deep rows `[T, H]`.

        With output layers on the device (K > 0) every position must pass through here once, in
        order, since these layers keep a cache; `num_logits` may be 0. With K = 0 the rows are
        independent and `position` is ignored.
        """
        ...

    def fork(self, sequence: SequenceId, num_tokens: int) -> SequenceId:
        """A new sequence that starts as the first `num_tokens` positions of another.

        Raises:
            ValueError: input or output layers hold fewer positions.
        """
        ...

    def release(self, sequence: SequenceId) -> None:
        """Forget a sequence and free its caches."""
        ...

"""What every device engine checks before it computes; the messages say expected and came."""

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from device_runtime.engines.engine import Rows


def num_threads(asked: int | None) -> int:
    """As many as asked for, else all cores but one: the endpoint and the link want theirs.

    Raises:
        ValueError: fewer than one.
    """
    if asked is None:
        return max(1, (os.cpu_count() or 1) - 1)
    if asked < 1:
        raise ValueError(f"threads: expected at least 1, got {asked}")
    return asked


def checked_token_ids(token_ids: Sequence[int], vocab_size: int) -> NDArray[np.int64]:
    """The ids as an array `[T]`, T >= 1.

    Raises:
        ValueError: no ids, or one outside `[0, vocab_size)`.
    """
    ids = np.asarray(token_ids)
    if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"expected at least one whole-number token id in a row, got shape {ids.shape} of "
            f"{ids.dtype}"
        )
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(f"expected token ids in [0, {vocab_size}), got {low if low < 0 else high}")
    return ids.astype(np.int64, copy=False)


def check_span(position: int, num_rows: int, num_held: int, max_context_tokens: int) -> None:
    """Refuse `[position, position + num_rows)` if it leaves a gap or exceeds the context.

    Raises:
        ValueError: `position` is not in `[0, num_held]`, or the span ends too late.
    """
    if not 0 <= position <= num_held:
        raise ValueError(f"expected a position in [0, {num_held}], got {position}")
    if position + num_rows > max_context_tokens:
        raise ValueError(
            f"expected at most {max_context_tokens} positions, got {num_rows} rows at {position}"
        )


def check_deep(deep: Rows, hidden_size: int, num_logits: int) -> None:
    """Refuse deep rows that are not float32 `[T, hidden_size]`, T >= 1, or too few for the logits.

    Raises:
        ValueError: a wrong shape, number format or count.
    """
    if deep.ndim != 2 or deep.shape[0] == 0 or deep.shape[1] != hidden_size:
        raise ValueError(f"expected deep rows [T, {hidden_size}], T >= 1, got {deep.shape}")
    if deep.dtype != np.float32:
        raise ValueError(f"expected float32 deep rows, got {deep.dtype}")
    if not 0 <= num_logits <= deep.shape[0]:
        raise ValueError(f"expected 0 to {deep.shape[0]} logits, got {num_logits}")


def check_fork(num_tokens: int, num_held: int) -> None:
    """Refuse to fork more positions than a sequence holds.

    Raises:
        ValueError: `num_tokens` is not in `[0, num_held]`.
    """
    if not 0 <= num_tokens <= num_held:
        raise ValueError(f"expected to fork 0 to {num_held} positions, got {num_tokens}")

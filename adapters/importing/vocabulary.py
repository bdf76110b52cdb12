"""Which tokens a published EAGLE-3 head can draft."""

import numpy as np
from numpy.typing import NDArray

from adapters.importing.published import PublishedHead
from adapters.storage import AdapterError

_TO_TARGET, _TO_DRAFT, _HEAD = "d2t", "t2d", "lm_head.weight"


def draft_vocabulary(head: PublishedHead, vocab_size: int) -> NDArray[np.int64] | None:
    """The model's token id of each row of the head's own LM head `[k]`, ascending; None: all.

    `d2t` holds how far each id is from its row's number, `t2d` which of the model's tokens have a
    row; the second says nothing more and is held against the first.

    Raises:
        AdapterError: no map where one is needed, or one that names no tokens, or some twice.
    """
    shape = head.shapes.get(_HEAD)
    if shape is None:
        raise AdapterError(f"{head.path}: {_HEAD} is missing, which an EAGLE-3 head has of its own")
    num_rows = shape[0]
    if _TO_TARGET not in head.shapes:
        if num_rows == vocab_size:
            return None
        raise AdapterError(
            f"{head.path}: the head drafts {num_rows} of {vocab_size} tokens and has no "
            f"{_TO_TARGET} to say which"
        )
    ids = head.whole_numbers(_TO_TARGET).reshape(-1)
    if len(ids) != num_rows:
        raise AdapterError(
            f"{head.path}: expected {num_rows} numbers in {_TO_TARGET}, got {len(ids)}"
        )
    ids = ids + np.arange(num_rows)
    if ids.min() < 0 or ids.max() >= vocab_size or np.any(np.diff(ids) <= 0):
        raise AdapterError(
            f"{head.path}: expected {_TO_TARGET} to name ascending tokens from 0 to "
            f"{vocab_size - 1}"
        )
    _check_mask(head, ids, vocab_size)
    return None if num_rows == vocab_size else ids


def _check_mask(head: PublishedHead, ids: NDArray[np.int64], vocab_size: int) -> None:
    if _TO_DRAFT not in head.shapes:
        return
    mask = head.whole_numbers(_TO_DRAFT).reshape(-1)
    if len(mask) != vocab_size or not np.array_equal(np.flatnonzero(mask), ids):
        raise AdapterError(f"{head.path}: {_TO_DRAFT} and {_TO_TARGET} name different tokens")

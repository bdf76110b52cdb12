"""How large the numbers of each channel usually are, of rows that were seen. Pure."""

from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wire.coding.fixed_code import code_lengths
from wire.coding.tables import MAX_SCALE, centres_of
from wire.messages import Dtype

_PHASES: Final = np.linspace(-0.5, 0.5, 11, endpoint=False)
"""Centres are whole exponents: where they are rounded decides how many fit, so some are tried."""

_MOST_LARGEST: Final = 16
"""Channels that are named as the largest."""

_LEAST: Final = 2.0**-100
"""Stands for zero, whose logarithm there is not."""


def channel_scales(rows: NDArray[Any]) -> tuple[float, ...]:
    """Of rows `[T, H]` in float32, each channel's usual size, as a power of two, to 2 decimals.

    0 is that of the middle channel. Rows that are not finite tell nothing: an empty result.
    """
    if not np.isfinite(rows).all():
        return ()
    logs = np.log2(np.maximum(np.abs(rows), _LEAST))
    # A row's own size is taken out first: the first one is often ten times the others.
    usual = np.median(logs - np.median(logs, axis=1, keepdims=True), axis=0)
    means = usual - np.median(usual)
    bits = rows.astype(ml_dtypes.bfloat16).view(np.uint16)
    exponents = (bits >> 7).astype(np.uint8)
    phase = min(_PHASES, key=lambda phase: _num_bits(exponents, means + phase))
    clipped = np.clip(means + phase, -MAX_SCALE, MAX_SCALE)
    return tuple(round(float(scale), 2) for scale in clipped)


def largest_channels(rows: NDArray[Any]) -> tuple[int, ...]:
    """Of rows `[T, H]` in float32 the channels with the largest root mean square, largest first.

    Each row counts alike. Rows that are not finite tell nothing: an empty result.
    """
    if not np.isfinite(rows).all():
        return ()
    power = np.square(rows, dtype=np.float64)
    share = (power / np.maximum(power.sum(axis=1, keepdims=True), _LEAST)).sum(axis=0)
    return tuple(np.argsort(-share, kind="stable")[:_MOST_LARGEST].tolist())


def _num_bits(exponents: NDArray[np.uint8], scales: NDArray[Any]) -> int:
    """What exponents `[T, H]` take in the fixed code, centred with these scales."""
    lengths = np.array(code_lengths(Dtype.BF16))
    centred = np.subtract(exponents, centres_of(scales.tolist(), Dtype.BF16))
    middle = np.median(centred, axis=1, keepdims=True).astype(np.uint8)
    return int(lengths[np.subtract(centred, middle)].sum())

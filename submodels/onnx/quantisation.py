"""Blockwise integer weights in the layout of ONNX Runtime's MatMulNBits."""

import numpy as np
from numpy.typing import NDArray

from submodels.onnx.matrices import Float32

BLOCK = 32
"""Weights that share a scale. The last block of a row is filled up with zeros."""


def num_blocks(num_columns: int) -> int:
    """Blocks per row."""
    return -(-num_columns // BLOCK)


def block_scales(rows: Float32, bits: int) -> Float32:
    """The scale of every block of rows `[N, K]`, shape `[N, blocks]`.

    The block's element of largest magnitude becomes the most negative integer exactly, which
    uses the whole range; a scale may therefore be negative.
    """
    blocks = _blocks(rows)
    largest = np.abs(blocks).argmax(axis=-1, keepdims=True)
    half = np.float32(1 << (bits - 1))
    return np.take_along_axis(blocks, largest, axis=-1)[..., 0] / -half


def quantise(rows: Float32, bits: int) -> NDArray[np.uint8]:
    """Integers for rows `[N, K]`: a weight is about `(integer - 2^(bits-1)) * scale`.

    Zero stays exactly zero. Packed as `[N, blocks, BLOCK * bits / 8]`; for 4 bits the earlier
    weight lies in the low nibble.
    """
    half = 1 << (bits - 1)
    scales = block_scales(rows, bits)[..., None]
    ratios = _blocks(rows) / np.where(scales == 0, np.float32(1), scales)
    integers = np.empty(ratios.shape, np.uint8)
    integers[...] = np.clip(np.rint(ratios) + half, 0, 2 * half - 1)
    if bits == 4:
        integers[..., 0::2] |= integers[..., 1::2] << 4
        return integers[..., 0::2]
    return integers


def _blocks(rows: Float32) -> Float32:
    num_rows, num_columns = rows.shape
    missing = num_blocks(num_columns) * BLOCK - num_columns
    padded = np.pad(rows, ((0, 0), (0, missing))) if missing else rows
    return padded.reshape(num_rows, -1, BLOCK)

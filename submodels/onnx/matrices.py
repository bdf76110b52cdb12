"""Weight matrices read piece by piece in float32, whatever their size and number format."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

# 16 MiB of float32: small beside any model, large enough to keep numpy busy.
_PIECE_ELEMENTS = 1 << 22
# ONNX Runtime's GroupQueryAttention accepts no other head sizes on CPU.
_HEAD_DIM_MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class Matrix:
    """A linear layer's weight `[N, K]` (N outputs); `pieces` yields its rows in order."""

    num_rows: int
    num_columns: int
    pieces: Callable[[], Iterator[Float32]]


def plain_matrix(source: NDArray[Any]) -> Matrix:
    """A checkpoint's matrix as it is."""
    num_rows, num_columns = source.shape
    step = max(1, _PIECE_ELEMENTS // num_columns)

    def pieces() -> Iterator[Float32]:
        for start in range(0, num_rows, step):
            yield source[start : start + step].astype(np.float32)

    return Matrix(num_rows, num_columns, pieces)


def stacked(*matrices: Matrix) -> Matrix:
    """The matrices above each other: one product instead of several on the same input."""

    def pieces() -> Iterator[Float32]:
        for matrix in matrices:
            yield from matrix.pieces()

    return Matrix(sum(m.num_rows for m in matrices), matrices[0].num_columns, pieces)


def padded_head_dim(head_dim: int) -> int:
    """The smallest head size the attention operator takes."""
    return -(-head_dim // _HEAD_DIM_MULTIPLE) * _HEAD_DIM_MULTIPLE


def pad_heads(array: NDArray[Any], head_dim: int, axis: int = 0) -> Float32:
    """Widen every head along `axis` with zeros to `padded_head_dim`.

    A head is two halves whose elements rotate in pairs (i, i + head_dim / 2), so each half is
    widened: `[x1, 0.., x2, 0..]`. Zeros add nothing to a score or a value.
    """
    array = np.moveaxis(array.astype(np.float32), axis, 0)
    missing = (padded_head_dim(head_dim) - head_dim) // 2
    if missing:
        halves = array.reshape(-1, head_dim // 2, *array.shape[1:])
        widths = [(0, 0), (0, missing), *[(0, 0)] * (array.ndim - 1)]
        array = np.pad(halves, widths).reshape(-1, *array.shape[1:])
    return np.ascontiguousarray(np.moveaxis(array, 0, axis))


def padded_matrix(source: NDArray[Any], head_dim: int, axis: int) -> Matrix:
    """A projection to heads (`axis` 0) or from heads (`axis` 1), with every head widened."""
    size = list(source.shape)
    size[axis] = size[axis] // head_dim * padded_head_dim(head_dim)
    unit = head_dim if axis == 0 else 1
    step = max(1, _PIECE_ELEMENTS // (unit * source.shape[1])) * unit

    def pieces() -> Iterator[Float32]:
        for start in range(0, source.shape[0], step):
            yield pad_heads(source[start : start + step], head_dim, axis)

    return Matrix(size[0], size[1], pieces)

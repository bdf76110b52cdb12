"""Weight matrices read piece by piece in float32, whatever their size and number format.

Where a matrix is in a file of the bundle as it is needed, its place there is known too, so that a
graph can name the place instead of holding a copy.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from submodels.tensors.tensor_file import TensorFile

Float32 = NDArray[np.float32]

# 16 MiB of float32: small beside any model, large enough to keep numpy busy.
_PIECE_ELEMENTS = 1 << 22
# ONNX Runtime's GroupQueryAttention accepts no other head sizes on CPU.
_HEAD_DIM_MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows lie in a file of the bundle, one behind the other."""

    file_name: str
    start: int
    num_bytes: int
    num_rows: int
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A linear layer's weight `[N, K]` (N outputs); `pieces` yields its rows in order."""

    num_rows: int
    num_columns: int
    pieces: Callable[[], Iterator[Float32]]
    places: tuple[Place, ...] = ()
    """Where all its rows lie; none if some lie nowhere in this form."""


def plain_matrix(source: NDArray[Any]) -> Matrix:
    """A checkpoint's matrix as it is."""
    num_rows, num_columns = source.shape
    step = max(1, _PIECE_ELEMENTS // num_columns)

    def pieces() -> Iterator[Float32]:
        for start in range(0, num_rows, step):
            yield source[start : start + step].astype(np.float32)

    return Matrix(num_rows, num_columns, pieces)


def stored_matrix(file: TensorFile, name: str) -> Matrix:
    """A matrix of a file, as it is there."""
    info, source = file.tensors[name], file.read(name)
    place = Place(file.path.name, info.start, info.num_bytes, source.shape[0], source.dtype)
    return replace(plain_matrix(source), places=(place,))


def chosen_rows(source: NDArray[Any], rows: NDArray[np.integer[Any]]) -> Matrix:
    """Rows `[k]` of a checkpoint's matrix, in their order."""
    num_columns = source.shape[1]
    step = max(1, _PIECE_ELEMENTS // num_columns)

    def pieces() -> Iterator[Float32]:
        for start in range(0, len(rows), step):
            yield source[rows[start : start + step]].astype(np.float32)

    return Matrix(len(rows), num_columns, pieces)


def stored_heads(
    file: TensorFile, name: str, head_dim: int, axis: int, order: Sequence[int] | None = None
) -> Matrix:
    """A projection to heads (`axis` 0) or from heads (`axis` 1) of a file, widened if need be.

    With an `order`, which only `axis` 0 knows, the rows of every head are taken in it.
    """
    if padded_head_dim(head_dim) == head_dim and order is None:
        return stored_matrix(file, name)
    return padded_matrix(file.read(name), head_dim, axis, order)


def stacked(*matrices: Matrix) -> Matrix:
    """The matrices above each other: one product instead of several on the same input."""

    def pieces() -> Iterator[Float32]:
        for matrix in matrices:
            yield from matrix.pieces()

    places = tuple(place for matrix in matrices for place in matrix.places)
    num_rows = sum(matrix.num_rows for matrix in matrices)
    if sum(place.num_rows for place in places) != num_rows:
        places = ()
    return Matrix(num_rows, matrices[0].num_columns, pieces, places)


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


def padded_matrix(
    source: NDArray[Any], head_dim: int, axis: int, order: Sequence[int] | None = None
) -> Matrix:
    """A projection to heads (`axis` 0) or from heads (`axis` 1), with every head widened.

    With an `order`, which only `axis` 0 knows, the rows of every head are taken in it.
    """
    size = list(source.shape)
    size[axis] = size[axis] // head_dim * padded_head_dim(head_dim)
    unit = head_dim if axis == 0 else 1
    step = max(1, _PIECE_ELEMENTS // (unit * source.shape[1])) * unit

    def pieces() -> Iterator[Float32]:
        for start in range(0, source.shape[0], step):
            piece = source[start : start + step]
            if order is not None:
                heads = piece.reshape(-1, head_dim, piece.shape[1])
                piece = heads[:, list(order)].reshape(piece.shape)
            yield pad_heads(piece, head_dim, axis)

    return Matrix(size[0], size[1], pieces)

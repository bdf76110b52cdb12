"""A tensor of a checkpoint as numbers in its own format: in memory, or some rows at a time."""

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from submodels.checkpoint.checkpoint import SourceTensor
from submodels.tensors.tensor_file import NUMPY_DTYPES

_FORMATS = MappingProxyType(
    {
        **NUMPY_DTYPES,
        "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
        "U8": np.dtype(np.uint8),
        "I8": np.dtype(np.int8),
        "I32": np.dtype(np.int32),
        "I64": np.dtype(np.int64),
    }
)


def whole(source: SourceTensor) -> NDArray[Any]:
    """A tensor in memory, in its own format."""
    position, held = 0, np.empty(0, np.uint8)
    for piece in source.pieces():
        some = np.frombuffer(piece, np.uint8)
        if len(some) == source.num_bytes:
            held = some
            break
        if not position:
            held = np.empty(source.num_bytes, np.uint8)
        held[position : position + len(some)] = some
        position += len(some)
    numbers: NDArray[Any] = held.view(_FORMATS[source.dtype])
    return numbers.reshape(source.shape)


def row_steps(source: SourceTensor, num_rows: int) -> Iterator[NDArray[Any]]:
    """The rows of a matrix in its own format, `num_rows` or fewer at a time."""
    numbers = _FORMATS[source.dtype]
    row_bytes = numbers.itemsize * int(np.prod(source.shape[1:], dtype=np.int64))
    for step in byte_steps(source, num_rows * row_bytes):
        yield step.view(numbers).reshape(-1, *source.shape[1:])


def byte_steps(source: SourceTensor, step_bytes: int) -> Iterator[NDArray[np.uint8]]:
    """A tensor's bytes in order, exactly `step_bytes` at a time, but for the last."""
    held = b""
    for piece in source.pieces():
        held = held + piece if held else piece
        end = len(held) // step_bytes * step_bytes
        for start in range(0, end, step_bytes):
            yield np.frombuffer(held, np.uint8, step_bytes, start)
        held = held[end:]
    if held:
        yield np.frombuffer(held, np.uint8)

"""Writing an ONNX model whose weights may be larger than memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import external_data_helper, helper

from submodels.onnx.matrices import Place

# Protobuf holds a message twice while writing it, and none above 2 GiB.
INLINE_LIMIT_BYTES = 256 << 20
# ONNX Runtime wants small tensors (shapes, norms) inside the model.
_SMALL_TENSOR_BYTES = 1024
# Page-aligned weights can be memory-mapped.
_ALIGNMENT_BYTES = 4096
# Known to ONNX Runtime 1.22 and later.
_OPSET = 20
_IR_VERSION = 10


@dataclass(frozen=True, slots=True)
class Initializer:
    """A weight of a graph; `pieces` yields its elements in order, and may be called again."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[NDArray[Any]]]
    place: Place | None = None
    """Where it lies in a file beside the graph, which is then named instead of copied."""

    @property
    def num_bytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_model(
    path: Path,
    graph: onnx.GraphProto,
    initializers: Sequence[Initializer],
    inline_limit_bytes: int = INLINE_LIMIT_BYTES,
) -> list[str]:
    """Write `graph` with its weights; above the limit these go to `<name>.data`, piece by piece.

    Returns:
        The names of the files written, the model first.
    """
    graph.initializer.extend(_beside(i, i.place) for i in initializers if i.place is not None)
    initializers = [i for i in initializers if i.place is None]
    if sum(i.num_bytes for i in initializers) <= inline_limit_bytes:
        graph.initializer.extend(_inline(i) for i in initializers)
        names = [path.name]
    else:
        data_path = path.with_name(f"{path.name}.data")
        with data_path.open("wb") as data:
            graph.initializer.extend(_external(i, data, data_path.name) for i in initializers)
        names = [path.name, data_path.name]
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, producer_name="hat", opset_imports=opsets)
    model.ir_version = _IR_VERSION
    path.write_bytes(model.SerializeToString())
    return names


def _inline(initializer: Initializer) -> onnx.TensorProto:
    tensor = _tensor(initializer)
    tensor.raw_data = b"".join(piece.tobytes() for piece in initializer.pieces())
    return tensor


def _external(initializer: Initializer, data: Any, location: str) -> onnx.TensorProto:
    if initializer.num_bytes <= _SMALL_TENSOR_BYTES:
        return _inline(initializer)
    offset = -(-data.tell() // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    data.seek(offset)
    for piece in initializer.pieces():
        data.write(np.ascontiguousarray(piece).data)
    return _named(initializer, location, offset, data.tell() - offset)


def _beside(initializer: Initializer, place: Place) -> onnx.TensorProto:
    return _named(initializer, place.file_name, place.start, place.num_bytes)


def _named(initializer: Initializer, file_name: str, start: int, length: int) -> onnx.TensorProto:
    """A weight that is read from another file when the model is loaded."""
    tensor = _tensor(initializer)
    # The helper refuses a tensor without data.
    tensor.raw_data = b""
    external_data_helper.set_external_data(tensor, file_name, start, length)
    tensor.ClearField("raw_data")
    return tensor


def _tensor(initializer: Initializer) -> onnx.TensorProto:
    return onnx.TensorProto(
        name=initializer.name,
        dims=initializer.shape,
        data_type=helper.np_dtype_to_tensor_dtype(initializer.dtype),
    )

"""One tensor of a GGUF file as plain numbers, in pieces.

llama.cpp's rotary embedding turns neighbouring numbers of a head, transformers' the numbers of its
two halves. Its converter therefore reorders the rows of the query and key projections of some
models. That order is undone here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from submodels.checkpoint.checkpoint import PIECE_BYTES
from submodels.checkpoint.gguf.header import StoredTensor
from submodels.errors import CheckpointError
from submodels.tensors.tensor_file import NUMPY_DTYPES

PLAIN: Mapping[GGMLQuantizationType, str] = MappingProxyType(
    {
        GGMLQuantizationType.F32: "F32",
        GGMLQuantizationType.F16: "F16",
        GGMLQuantizationType.BF16: "BF16",
    }
)
"""Formats that are not blocks, by their safetensors names."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A `SourceTensor`. Blocks come as float32, which holds all that they say; floats as they are.

    `head_dim` None: the rows are in order.
    """

    name: str
    stored: StoredTensor
    head_dim: int | None

    @property
    def dtype(self) -> str:
        """The safetensors name of the format in which `pieces` come."""
        return PLAIN.get(self.stored.type, "F32")

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        return self.stored.shape

    @property
    def num_bytes(self) -> int:
        """The bytes of all pieces."""
        item_bytes = 4 if self.dtype == "F32" else 2
        return int(np.prod(self.shape)) * item_bytes

    def pieces(self, piece_bytes: int = PIECE_BYTES) -> Iterator[bytes]:
        """See `SourceTensor.pieces`; a piece holds whole rows, and whole heads where there are.

        Raises:
            CheckpointError: the file ends before the tensor does, or what it holds is no number.
        """
        num_rows, row_bytes = self._rows()
        unit = self.head_dim or 1
        step = max(1, piece_bytes * num_rows // (self.num_bytes * unit)) * unit
        with self.stored.path.open("rb") as file:
            file.seek(self.stored.start)
            for start in range(0, num_rows, step):
                wanted = min(step, num_rows - start) * row_bytes
                piece = file.read(wanted)
                if len(piece) < wanted:
                    raise CheckpointError(f"{self.stored.path} ends inside the tensor {self.name}")
                rows = np.frombuffer(piece, np.uint8).reshape(-1, row_bytes)
                yield self._numbers(self._in_order(rows))

    def _rows(self) -> tuple[int, int]:
        """How many rows, and how many bytes each has; a vector of floats is a column of them."""
        shape, kind = self.stored.shape, self.stored.type
        num_rows = int(np.prod(shape[:-1]))
        if len(shape) == 1 and kind in PLAIN:
            num_rows = shape[0]
        return num_rows, self.stored.num_bytes // num_rows

    def _in_order(self, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.head_dim is None:
            return rows
        pairs = rows.reshape(-1, self.head_dim // 2, 2, rows.shape[-1])
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)

    def _numbers(self, rows: NDArray[np.uint8]) -> bytes:
        if self.stored.type in PLAIN:
            return rows.tobytes()
        with np.errstate(all="ignore"):
            numbers: NDArray[np.float32] = dequantize(rows, self.stored.type)
        if not np.isfinite(numbers).all():
            raise CheckpointError(
                f"{self.stored.path} is corrupt: {self.name} holds blocks whose scale is no number"
            )
        return numbers.astype("<f4", copy=False).tobytes()


@dataclass(frozen=True, slots=True)
class Gains:
    """Gains of a norm to which llama.cpp's converter has added `offset`, a `SourceTensor`."""

    source: GgufTensor
    offset: float
    dtype: str = "F32"

    @property
    def name(self) -> str:
        """As of what is stored."""
        return self.source.name

    @property
    def shape(self) -> tuple[int, ...]:
        """As of what is stored."""
        return self.source.shape

    @property
    def num_bytes(self) -> int:
        """The bytes of all pieces."""
        return 4 * int(np.prod(self.shape))

    def pieces(self) -> Iterator[bytes]:
        """See `SourceTensor.pieces`."""
        for piece in self.source.pieces():
            numbers = np.frombuffer(piece, NUMPY_DTYPES[self.source.dtype]).astype("<f4")
            yield (numbers - np.float32(self.offset)).tobytes()


def rows_of(stored: StoredTensor, first: int, num_rows: int) -> StoredTensor:
    """Some rows of a tensor, counted through all matrices in it, as a matrix.

    Of a vector or a matrix of biases a row is what lies side by side.
    """
    total = int(np.prod(stored.shape[:-1]))
    row_bytes = stored.num_bytes // total
    return replace(
        stored,
        shape=(num_rows, stored.shape[-1]),
        start=stored.start + first * row_bytes,
        num_bytes=num_rows * row_bytes,
    )

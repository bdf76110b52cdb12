"""A checkpoint read as one whose residual stream is rotated: the same function of the tokens.

An RMS norm commutes with a rotation once its gain is folded into the matrices that read it. So with
every hidden state `x` as `x R`: what reads the stream is `W diag(gain) R`, what writes to it is
`R^T W`, the embedding is `E R`, and each norm's gain is 1. Heads, rotary embedding and the MLP's
inner part are untouched. A head tied to the embedding is `E diag(gain) R`, so it becomes a matrix
of its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from submodels.checkpoint.checkpoint import PIECE_BYTES, Checkpoint, SourceTensor
from submodels.errors import UnsupportedModelError
from submodels.manifest import ModelShape
from submodels.rotation.rotation import Rotation
from submodels.tensors.number_format import cast, item_bytes
from submodels.tensors.tensor_file import NUMPY_DTYPES
from submodels.tensors.tensor_layout import EMBEDDING, FINAL_NORM, LM_HEAD, layer_name

_ATTENTION_NORM, _MLP_NORM = "input_layernorm.weight", "post_attention_layernorm.weight"
_READERS: Mapping[str, str] = MappingProxyType(
    {
        "self_attn.q_proj.weight": _ATTENTION_NORM,
        "self_attn.k_proj.weight": _ATTENTION_NORM,
        "self_attn.v_proj.weight": _ATTENTION_NORM,
        "mlp.gate_proj.weight": _MLP_NORM,
        "mlp.up_proj.weight": _MLP_NORM,
    }
)
"""What reads the stream, and through which norm."""
_WRITERS = (
    *("self_attn.o_proj.weight", "self_attn.o_proj.bias"),
    *("mlp.down_proj.weight", "mlp.down_proj.bias"),
)
# Columns of a writing matrix are rotated so many numbers at a time, in float64.
_BLOCK_NUMBERS = 1 << 22


def check_rotatable(shape: ModelShape) -> None:
    """Return if a rotation goes into the weights of a model without a change of what it says.

    Raises:
        UnsupportedModelError: a norm behind a half, or of another kind, or experts.
    """
    described = shape.described
    for what, is_so in (
        ("norms by mean and deviation", described.norm != "rms"),
        ("norms after a half of a layer", described.after_attention or described.after_mlp),
        ("halves beside each other", described.is_parallel),
        ("gains of 1 + w", described.norm_offset != 0),
        ("experts", described.experts is not None),
    ):
        if is_so:
            raise UnsupportedModelError(
                f"--wire-rotation is not exact for model type {shape.model_type!r}: it has {what}"
            )


def rotated_checkpoint(
    checkpoint: Checkpoint, shape: ModelShape, rotation: Rotation, dtype: str
) -> tuple[Checkpoint, ModelShape]:
    """The checkpoint and the model's shape in the rotated basis.

    Args:
        checkpoint: Has passed the checks of a split.
        shape: Its model's.
        rotation: Of the model's hidden size.
        dtype: The format (safetensors name) that rotated numbers are rounded to, once.
    """
    tensors = dict(checkpoint.tensors)

    def read_through(norm: str, name: str) -> SourceTensor:
        return _Reader(name, dtype, checkpoint.tensors[name], rotation, checkpoint.tensors[norm])

    for index in range(shape.num_layers):
        for suffix, norm in _READERS.items():
            name = layer_name(index, suffix)
            tensors[name] = read_through(layer_name(index, norm), name)
        for name in (layer_name(index, suffix) for suffix in _WRITERS):
            if name in tensors:
                tensors[name] = _Writer(name, dtype, tensors[name], rotation)
        for name in (layer_name(index, norm) for norm in (_ATTENTION_NORM, _MLP_NORM)):
            tensors[name] = _Ones(name, dtype, tensors[name].shape)
    head = EMBEDDING if shape.tied_embeddings else LM_HEAD
    gain = checkpoint.tensors[FINAL_NORM]
    tensors[LM_HEAD] = _Reader(LM_HEAD, dtype, checkpoint.tensors[head], rotation, gain)
    tensors[EMBEDDING] = _Reader(EMBEDDING, dtype, checkpoint.tensors[EMBEDDING], rotation, None)
    tensors[FINAL_NORM] = _Ones(FINAL_NORM, dtype, gain.shape)
    untied = msgspec.structs.replace(shape, tied_embeddings=False)
    return Checkpoint(checkpoint.path, checkpoint.folder, MappingProxyType(tensors)), untied


@dataclass(frozen=True, slots=True)
class _Ones:
    """A norm's gain that has been folded away, a `SourceTensor`."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return _num_bytes(self.shape, self.dtype)

    def pieces(self) -> Iterator[bytes]:
        yield np.ones(self.shape, NUMPY_DTYPES[self.dtype]).tobytes()


@dataclass(frozen=True, slots=True)
class _Reader:
    """A matrix `[N, H]` whose rows meet hidden states, a `SourceTensor`."""

    name: str
    dtype: str
    source: SourceTensor
    rotation: Rotation
    gain: SourceTensor | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def num_bytes(self) -> int:
        return _num_bytes(self.shape, self.dtype)

    def pieces(self) -> Iterator[bytes]:
        gain = 1.0 if self.gain is None else _whole(self.gain).astype(np.float64)
        for rows in _rows_of(self.source):
            yield _rounded(self.rotation.turn(rows * gain), self.dtype, self.name)


@dataclass(frozen=True, slots=True)
class _Writer:
    """A matrix `[H, K]` or bias `[H]` that adds to hidden states, a `SourceTensor`."""

    name: str
    dtype: str
    source: SourceTensor
    rotation: Rotation

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def num_bytes(self) -> int:
        return _num_bytes(self.shape, self.dtype)

    def pieces(self) -> Iterator[bytes]:
        matrix = _whole(self.source).reshape(self.shape[0], -1)
        turned = np.empty(matrix.shape, NUMPY_DTYPES[self.dtype])
        step = max(1, _BLOCK_NUMBERS // matrix.shape[0])
        for start in range(0, matrix.shape[1], step):
            columns = self.rotation.turn(matrix[:, start : start + step].T)
            block = np.frombuffer(_rounded(columns, self.dtype, self.name), turned.dtype)
            turned[:, start : start + step] = block.reshape(columns.shape).T
        written = turned.reshape(-1).view(np.uint8).data
        for start in range(0, len(written), PIECE_BYTES):
            yield bytes(written[start : start + PIECE_BYTES])


def _num_bytes(shape: tuple[int, ...], dtype: str) -> int:
    return int(np.prod(shape, dtype=np.int64)) * item_bytes(dtype)


def _rounded(numbers: NDArray[np.float64], dtype: str, name: str) -> bytes:
    return cast(numbers.astype(np.float32).tobytes(), "F32", dtype, name)


def _whole(source: SourceTensor) -> NDArray[Any]:
    numbers = np.frombuffer(b"".join(source.pieces()), NUMPY_DTYPES[source.dtype])
    return numbers.reshape(source.shape)


def _rows_of(source: SourceTensor) -> Iterator[NDArray[Any]]:
    """The rows of a matrix in order, some at a time: a piece may end inside a row."""
    num_columns = source.shape[-1]
    row_bytes = num_columns * item_bytes(source.dtype)
    left = b""
    for piece in source.pieces():
        held = left + piece
        end = len(held) // row_bytes * row_bytes
        left = held[end:]
        if end:
            numbers = np.frombuffer(held[:end], NUMPY_DTYPES[source.dtype])
            yield numbers.reshape(-1, num_columns).astype(np.float64)

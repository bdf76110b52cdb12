"""A GGUF file's tensors, under Hugging Face's names and as plain numbers, in pieces.

llama.cpp's rotary embedding turns neighbouring numbers of a head, transformers' the numbers of its
two halves. Its converter therefore reorders the rows of the query and key projections of Llama
models. That order is undone here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from submodels.checkpoint.checkpoint import PIECE_BYTES
from submodels.checkpoint.gguf.file import GgufFile
from submodels.checkpoint.gguf.header import StoredTensor
from submodels.errors import CheckpointError, UnsupportedModelError

_WHOLE: Mapping[str, str] = MappingProxyType(
    {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
)
_OF_LAYER: Mapping[str, str] = MappingProxyType(
    {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
)
# The configuration has what they say.
_OF_ROPE = ("rope_freqs", "attn_rot_embd")
_REORDERED = ("attn_q", "attn_k")
_REORDERED_ARCHITECTURES = ("llama", "mistral")

_PLAIN: Mapping[GGMLQuantizationType, str] = MappingProxyType(
    {
        GGMLQuantizationType.F32: "F32",
        GGMLQuantizationType.F16: "F16",
        GGMLQuantizationType.BF16: "BF16",
    }
)


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
        return _PLAIN.get(self.stored.type, "F32")

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
        if len(shape) == 1 and kind in _PLAIN:
            num_rows = shape[0]
        return num_rows, self.stored.num_bytes // num_rows

    def _in_order(self, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.head_dim is None:
            return rows
        pairs = rows.reshape(-1, self.head_dim // 2, 2, rows.shape[-1])
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)

    def _numbers(self, rows: NDArray[np.uint8]) -> bytes:
        if self.stored.type in _PLAIN:
            return rows.tobytes()
        with np.errstate(all="ignore"):
            numbers: NDArray[np.float32] = dequantize(rows, self.stored.type)
        if not np.isfinite(numbers).all():
            raise CheckpointError(
                f"{self.stored.path} is corrupt: {self.name} holds blocks whose scale is no number"
            )
        return numbers.astype("<f4", copy=False).tobytes()


def gguf_tensors(file: GgufFile, head_dim: int) -> dict[str, GgufTensor]:
    """The tensors of a model by their Hugging Face names.

    A tensor that no model of ours has keeps its own name, by which splitting will refuse it.

    Raises:
        UnsupportedModelError: a number format that the gguf package cannot read.
        CheckpointError: two tensors for one name, or a bias in blocks.
    """
    _check_types(file)
    is_reordered = file.architecture in _REORDERED_ARCHITECTURES
    tensors: dict[str, GgufTensor] = {}
    for own_name, stored in file.tensors.items():
        kind = own_name.split(".")[-2] if "." in own_name else own_name
        if kind in _OF_ROPE:
            continue
        name = _hugging_face_name(own_name)
        reordered_by = head_dim if is_reordered and kind in _REORDERED else None
        if name in tensors:
            raise CheckpointError(f"{file.path} holds {name} under two names")
        if reordered_by is not None and len(stored.shape) == 1 and stored.type not in _PLAIN:
            raise CheckpointError(f"{file.path}: {own_name} is a vector of {stored.type.name}")
        tensors[name] = GgufTensor(name, stored, reordered_by)
    return tensors


def _check_types(file: GgufFile) -> None:
    for kind in {stored.type for stored in file.tensors.values()} - _PLAIN.keys():
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError as error:
            held = [name for name, stored in file.tensors.items() if stored.type is kind]
            raise UnsupportedModelError(
                f"{file.path}: {held[0]} and {len(held) - 1} more are {kind.name}, which the gguf "
                "package does not dequantise"
            ) from error


def _hugging_face_name(name: str) -> str:
    match name.split("."):
        case [kind, suffix] if kind in _WHOLE:
            return f"{_WHOLE[kind]}.{suffix}"
        case ["blk", index, kind, suffix] if kind in _OF_LAYER:
            return f"model.layers.{index}.{_OF_LAYER[kind]}.{suffix}"
        case _:
            return name

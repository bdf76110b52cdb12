"""A GGUF file's tensors under Hugging Face's names."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf.quants import dequantize

from submodels.checkpoint.checkpoint import SourceTensor
from submodels.checkpoint.gguf.architectures import Architecture, architecture_of
from submodels.checkpoint.gguf.experts import one_by_one, stacked
from submodels.checkpoint.gguf.file import GgufFile
from submodels.checkpoint.gguf.header import StoredTensor
from submodels.checkpoint.gguf.tensor import PLAIN, Gains, GgufTensor
from submodels.errors import CheckpointError, UnsupportedModelError

_WHOLE: Mapping[str, str] = MappingProxyType(
    {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
)
# The configuration has what they say.
_OF_ROPE = ("rope_freqs", "attn_rot_embd")
_OF_LONG_ROPE = ("rope_factors_long", "rope_factors_short")
_REORDERED = ("attn_q", "attn_k")


def gguf_tensors(file: GgufFile, head_dim: int) -> dict[str, SourceTensor]:
    """The tensors of a model by their Hugging Face names.

    A tensor that no model of ours has keeps its own name, by which splitting will refuse it.

    Raises:
        UnsupportedModelError: an architecture, or a number format that the gguf package cannot
            read.
        CheckpointError: two tensors for one name, a bias in blocks, or experts that do not fit
            each other.
    """
    _check_types(file)
    architecture = architecture_of(file)
    tensors: dict[str, SourceTensor] = {}
    of_experts, others = _apart(file)
    found: list[SourceTensor] = [
        _tensor(file, architecture, name, stored, head_dim) for name, stored in others.items()
    ]
    if architecture.stacks_experts:
        found += stacked(file, of_experts)
    else:
        found += one_by_one(file, architecture.experts, of_experts)
    for tensor in found:
        if tensor.name in tensors:
            raise CheckpointError(f"{file.path} holds {tensor.name} under two names")
        tensors[tensor.name] = tensor
    return tensors


def _apart(file: GgufFile) -> tuple[dict[str, StoredTensor], dict[str, StoredTensor]]:
    """Tensors of experts that the family has otherwise, and the others but those of settings."""
    architecture = architecture_of(file)
    is_long = architecture.model_type == "phi3"
    is_apart = bool(architecture.experts) or architecture.stacks_experts
    passed_over = (*_OF_ROPE, *(_OF_LONG_ROPE if is_long else ()))
    kinds = {name: name.split(".")[-2] if "." in name else name for name in file.tensors}
    experts = {
        name: file.tensors[name]
        for name, kind in kinds.items()
        if is_apart and kind.endswith("_exps")
    }
    others = {
        name: file.tensors[name]
        for name, kind in kinds.items()
        if name not in experts and kind not in passed_over
    }
    return experts, others


def _tensor(
    file: GgufFile, architecture: Architecture, own_name: str, stored: StoredTensor, head_dim: int
) -> SourceTensor:
    name, kind = _hugging_face_name(own_name, architecture), own_name.split(".")[-2:][0]
    is_reordered = architecture.is_reordered and kind in _REORDERED
    if is_reordered and len(stored.shape) == 1 and stored.type not in PLAIN:
        raise CheckpointError(f"{file.path}: {own_name} is a vector of {stored.type.name}")
    tensor = GgufTensor(name, stored, head_dim if is_reordered else None)
    if architecture.gain_offset and own_name.endswith("norm.weight"):
        return Gains(tensor, architecture.gain_offset)
    return tensor


def _check_types(file: GgufFile) -> None:
    for kind in {stored.type for stored in file.tensors.values()} - PLAIN.keys():
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError as error:
            held = [name for name, stored in file.tensors.items() if stored.type is kind]
            raise UnsupportedModelError(
                f"{file.path}: {held[0]} and {len(held) - 1} more are {kind.name}, which the gguf "
                "package does not dequantise"
            ) from error


def _hugging_face_name(name: str, architecture: Architecture) -> str:
    names = architecture.layer_names
    match name.split("."):
        case [kind, suffix] if kind in _WHOLE:
            return f"{_WHOLE[kind]}.{suffix}"
        case ["blk", index, kind, suffix] if f"{kind}.{suffix}" in names:
            return f"model.layers.{index}.{names[f'{kind}.{suffix}']}"
        case ["blk", index, kind, suffix] if kind in names:
            return f"model.layers.{index}.{names[kind]}.{suffix}"
        # Files of before April 2024 have experts one by one.
        case ["blk", index, kind, number, "weight"] if f"{kind}_exps" in architecture.experts:
            own_name = architecture.experts[f"{kind}_exps"].format(number)
            return f"model.layers.{index}.{own_name}.weight"
        case _:
            return name

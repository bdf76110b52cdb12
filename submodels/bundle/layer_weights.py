"""The tensors of decoder layers and of the head, loaded from a bundle into torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from submodels.bundle.bundle import Bundle
from submodels.manifest import ModelShape
from submodels.tensors.tensor_file import TensorFile
from submodels.tensors.tensor_layout import EMBEDDING, FINAL_NORM, LM_HEAD, Part, layer_name


@dataclass(frozen=True, slots=True)
class Linear:
    """`y = x W^T + b`: `weight` is `[out, in]`, `bias` `[out]` or None."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        return torch.nn.functional.linear(rows, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer's tensors. `q_norm` and `k_norm` `[D]` exist in Qwen3 only."""

    input_norm: Tensor
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    post_attention_norm: Tensor
    gate: Linear
    up: Linear
    down: Linear
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """In which number format and where tensors are kept."""

    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """A torch tensor of its own memory with the values of a numpy array."""
        if array.dtype == np.dtype(ml_dtypes.bfloat16):
            source = torch.from_numpy(np.array(array.view(np.int16))).view(torch.bfloat16)
        else:
            source = torch.from_numpy(np.array(array))
        return source.to(self.device, self.dtype)


def layer_indices(bundle: Bundle, part: Part) -> range:
    """The layers of a part, numbered as in the whole model."""
    manifest = bundle.manifest
    first_output_layer = manifest.shape.num_layers - manifest.num_output_layers
    ranges = {
        Part.INPUT: range(manifest.num_input_layers),
        Part.MIDDLE: range(manifest.num_input_layers, first_output_layer),
        Part.OUTPUT: range(first_output_layer, manifest.shape.num_layers),
    }
    return ranges[part]


def load_layer_weights(bundle: Bundle, part: Part, placed: Placed) -> Sequence[LayerWeights]:
    """The weights of every decoder layer of a part, in order.

    Raises:
        BundleError: the bundle does not hold this part.
    """
    tensors = bundle.open_tensors(part)
    count = len(layer_indices(bundle, part))
    return [load_layer(tensors, index, bundle.manifest.shape, placed) for index in range(count)]


def load_embedding(bundle: Bundle, placed: Placed) -> Tensor:
    """The embedding table `[V, H]` of a device bundle."""
    return placed.tensor(bundle.read_tensor(Part.INPUT, EMBEDDING))


def load_final_norm(bundle: Bundle, placed: Placed) -> Tensor:
    """The weight `[H]` of the final norm of a device bundle."""
    return placed.tensor(bundle.read_tensor(Part.OUTPUT, FINAL_NORM))


def load_lm_head(bundle: Bundle, placed: Placed) -> Tensor:
    """The LM head `[V, H]` of a device bundle; the embedding where the two are tied."""
    if bundle.manifest.shape.tied_embeddings:
        return load_embedding(bundle, placed)
    return placed.tensor(bundle.read_tensor(Part.OUTPUT, LM_HEAD))


def load_layer(tensors: TensorFile, index: int, shape: ModelShape, placed: Placed) -> LayerWeights:
    """One decoder layer of a part's file, by its number there."""

    def load(suffix: str) -> Tensor:
        return placed.tensor(tensors.read(layer_name(index, suffix)))

    def linear(name: str, has_bias: bool) -> Linear:
        return Linear(load(f"{name}.weight"), load(f"{name}.bias") if has_bias else None)

    return LayerWeights(
        input_norm=load("input_layernorm.weight"),
        q=linear("self_attn.q_proj", shape.qkv_bias),
        k=linear("self_attn.k_proj", shape.qkv_bias),
        v=linear("self_attn.v_proj", shape.qkv_bias),
        o=linear("self_attn.o_proj", shape.output_bias),
        post_attention_norm=load("post_attention_layernorm.weight"),
        gate=linear("mlp.gate_proj", shape.mlp_bias),
        up=linear("mlp.up_proj", shape.mlp_bias),
        down=linear("mlp.down_proj", shape.mlp_bias),
        q_norm=load("self_attn.q_norm.weight") if shape.qk_norm else None,
        k_norm=load("self_attn.k_norm.weight") if shape.qk_norm else None,
    )

"""The tensors of decoder layers and of the head, loaded from a bundle into torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from submodels.bundle.bundle import Bundle
from submodels.manifest import Experts, ModelShape
from submodels.tensors.computed import as_computed
from submodels.tensors.tensor_file import TensorFile
from submodels.tensors.tensor_layout import (
    EMBEDDING,
    FINAL_NORM,
    LAYER_SCALAR,
    LM_HEAD,
    Part,
    layer_name,
)


@dataclass(frozen=True, slots=True)
class Linear:
    """`y = x W^T + b`: `weight` is `[out, in]`, `bias` `[out]` or None."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        return torch.nn.functional.linear(rows, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class GatedWeights:
    """A gated feed-forward network, or one expert."""

    gate: Linear
    up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """The router and all experts of a layer; scales as `Experts` says, None where it has none."""

    router: Linear
    experts: Sequence[GatedWeights]
    router_scale: Tensor | None = None
    expert_scale: Tensor | None = None


@dataclass(frozen=True, slots=True)
class BesideWeights:
    """A gated feed-forward network and experts beside it, with the norms `[H]` around both."""

    gated: GatedWeights
    experts: ExpertWeights
    before: Tensor
    after: Tensor
    after_gated: Tensor


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer's tensors; those that its family does not have are None.

    `q_norm` and `k_norm` are `[D]`, or as wide as the projection; `sinks` `[heads]`, `scalar`
    `[1]`. Without `v` values are what `k` gives.
    """

    q: Linear
    k: Linear
    v: Linear | None
    o: Linear
    feed_forward: GatedWeights | ExpertWeights | BesideWeights
    input_norm: Tensor | None = None
    after_attention_norm: Tensor | None = None
    post_attention_norm: Tensor | None = None
    after_mlp_norm: Tensor | None = None
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    sinks: Tensor | None = None
    scalar: Tensor | None = None


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
    tensors, shape = bundle.open_tensors(part), bundle.manifest.shape
    numbered = enumerate(layer_indices(bundle, part))
    return [load_layer(tensors, index, shape.of_layer(layer), placed) for index, layer in numbered]


def load_embedding(bundle: Bundle, placed: Placed) -> Tensor:
    """The embedding table `[V, H]` of a device bundle, as rows enter the first layer."""
    table = placed.tensor(bundle.read_tensor(Part.INPUT, EMBEDDING))
    scale = bundle.manifest.shape.described.embedding_scale
    return table if scale == 1 else table * scale


def load_final_norm(bundle: Bundle, placed: Placed) -> Tensor:
    """The weight `[H]` of the final norm of a device bundle."""
    gain = placed.tensor(bundle.read_tensor(Part.OUTPUT, FINAL_NORM))
    computed: Tensor = as_computed(gain, FINAL_NORM, bundle.manifest.shape)
    return computed


def load_lm_head(bundle: Bundle, placed: Placed) -> Tensor:
    """The LM head `[V, H]` of a device bundle; the embedding where the two are tied."""
    if bundle.manifest.shape.tied_embeddings:
        return placed.tensor(bundle.read_tensor(Part.INPUT, EMBEDDING))
    return placed.tensor(bundle.read_tensor(Part.OUTPUT, LM_HEAD))


def load_layer(tensors: TensorFile, index: int, shape: ModelShape, placed: Placed) -> LayerWeights:
    """One decoder layer of a part's file, by its number there; `shape` is that of the layer."""

    described = shape.described

    def load(suffix: str) -> Tensor:
        stored = placed.tensor(tensors.read(layer_name(index, suffix)))
        computed: Tensor = as_computed(stored, suffix, shape)
        return computed

    def norm(name: str) -> Tensor | None:
        return load(f"{name}.weight") if name else None

    def linear(name: str, has_bias: bool = False) -> Linear:
        return Linear(load(f"{name}.weight"), load(f"{name}.bias") if has_bias else None)

    return LayerWeights(
        q=linear("self_attn.q_proj", shape.qkv_bias),
        k=linear("self_attn.k_proj", shape.qkv_bias),
        v=None if described.keys_are_values else linear("self_attn.v_proj", shape.qkv_bias),
        o=linear("self_attn.o_proj", shape.output_bias),
        feed_forward=_feed_forward(load, linear, shape),
        input_norm=norm(described.before_attention),
        after_attention_norm=norm(described.after_attention),
        post_attention_norm=norm(described.before_mlp),
        after_mlp_norm=norm(described.after_mlp),
        q_norm=load("self_attn.q_norm.weight") if shape.qk_norm else None,
        k_norm=load("self_attn.k_norm.weight") if shape.qk_norm else None,
        sinks=load("self_attn.sinks") if described.has_sinks else None,
        scalar=load(LAYER_SCALAR) if described.has_layer_scalar else None,
    )


def _feed_forward(
    load: Callable[[str], Tensor], linear: Callable[[str, bool], Linear], shape: ModelShape
) -> GatedWeights | ExpertWeights | BesideWeights:
    experts = shape.described.experts
    names = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    if experts is None:
        return GatedWeights(*(linear(name, shape.mlp_bias) for name in names))
    if experts.before:
        return BesideWeights(
            GatedWeights(*(linear(name, shape.mlp_bias) for name in names)),
            ExpertWeights(
                linear(experts.router, False),
                stacked_experts(load, experts),
                load(experts.router_scale),
                load(experts.expert_scale),
            ),
            load(f"{experts.before}.weight"),
            load(f"{experts.after}.weight"),
            load(f"{experts.after_gated}.weight"),
        )
    if experts.are_stacked:
        return ExpertWeights(linear(experts.router, True), stacked_experts(load, experts))
    return ExpertWeights(
        linear(experts.router, False),
        [_expert(linear, experts, index) for index in range(experts.num_experts)],
    )


def _expert(linear: Callable[[str, bool], Linear], experts: Experts, index: int) -> GatedWeights:
    names = (experts.gate, experts.up, experts.down)
    return GatedWeights(*(linear(name.format(index), False) for name in names))


def stacked_experts(load: Callable[[str], Tensor], experts: Experts) -> list[GatedWeights]:
    """Experts out of the tensors that hold all of them; `load` gives these by their names."""
    if experts.has_halves:
        return [
            GatedWeights(*(Linear(each.contiguous()) for each in (*one.chunk(2), down)))
            for one, down in zip(load(experts.gate), load(experts.down), strict=True)
        ]
    gate_up, gate_up_bias = load(experts.gate), load(f"{experts.gate}_bias")
    down, down_bias = load(experts.down), load(f"{experts.down}_bias")
    return [
        GatedWeights(
            Linear(gate_up[index, :, 0::2].T.contiguous(), gate_up_bias[index, 0::2].contiguous()),
            Linear(gate_up[index, :, 1::2].T.contiguous(), gate_up_bias[index, 1::2].contiguous()),
            Linear(down[index].T.contiguous(), down_bias[index].contiguous()),
        )
        for index in range(experts.num_experts)
    ]

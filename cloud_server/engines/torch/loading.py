"""A torch middle engine from weights, layer by layer, never the whole model twice."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from cloud_server.engines.torch.attention import (
    Attention,
    CappedAttention,
    FusedAttention,
    MatmulAttention,
)
from cloud_server.engines.torch.described_layer import DescribedLayer, is_plain
from cloud_server.engines.torch.engine import EngineLimits, TorchMiddleEngine
from cloud_server.engines.torch.kv_slab import KvShape, LayerKv
from cloud_server.engines.torch.layer import LayerPlace, LayerSettings, MiddleLayer, Turn
from cloud_server.engines.torch.rows import torch_dtype
from submodels.manifest import ModelShape
from submodels.tensors.computed import as_computed, is_norm
from wire.messages import Dtype

LayerTensors = Callable[[int], Mapping[str, torch.Tensor]]
"""The tensors of the n-th middle layer, by their names below `model.layers.n.`."""


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """Everything but the weights: the middle's layers and how to run them.

    `first_layer` and `num_layers` say which layers of `shape` the middle is. `packed` repacks
    weights for oneDNN; `attention` None chooses by device.
    """

    shape: ModelShape
    first_layer: int
    num_layers: int
    dtype: Dtype
    device: torch.device
    packed: bool
    attention: Attention | None = None

    @property
    def chosen_attention(self) -> Attention:
        """The given one, or the one that suits the device."""
        if self.attention is not None:
            return self.attention
        softcap = self.shape.described.attention_softcap
        if softcap is not None:
            return CappedAttention(softcap)
        return MatmulAttention() if self.device.type == "cpu" else FusedAttention()

    @property
    def layers(self) -> range:
        """The middle's layers in the whole model."""
        return range(self.first_layer, self.first_layer + self.num_layers)

    @property
    def kv_shape(self) -> KvShape:
        """What a cached position holds."""
        heads = [self.shape.heads_of(layer) for layer in self.layers]
        return KvShape(
            layers=tuple(LayerKv(each.num_key_value_heads, each.head_dim) for each in heads),
            dtype=torch_dtype(self.dtype),
            device=self.device,
            transposed=self.chosen_attention.transposed_keys,
        )


@torch.inference_mode()
def build_engine(
    plan: EnginePlan, limits: EngineLimits, layer_tensors: LayerTensors
) -> TorchMiddleEngine:
    """Convert and pack one layer after the other; its source tensors are dropped in between.

    Raises:
        UnsupportedModelError: an activation or a tensor the engine does not know.
        KeyError: a tensor is missing.
    """
    shape, attention = plan.shape, plan.chosen_attention
    make_layer = MiddleLayer if is_plain(shape) else DescribedLayer
    turns = [_turn(shape, layer) for layer in plan.layers]
    kinds = list(dict.fromkeys(turns))
    layers = [
        make_layer(
            LayerPlace(index, shape.sliding_windows[layer], kinds.index(turns[index])),
            _converted(layer_tensors(index), plan, shape.of_layer(layer)),
            LayerSettings(shape.of_layer(layer), attention, plan.packed),
        )
        for index, layer in enumerate(plan.layers)
    ]
    windows = [shape.sliding_windows[layer] for layer in plan.layers]
    return TorchMiddleEngine(layers, windows, kinds, plan.kv_shape, plan.dtype, limits)


def _turn(shape: ModelShape, layer: int) -> Turn:
    """What a layer of the whole model is turned by."""
    own = shape.of_layer(layer)
    return Turn(
        shape.ropes[shape.rope_index(layer)],
        own.num_attention_heads,
        own.num_key_value_heads,
        own.head_dim,
        own.attention_scale,
    )


def _converted(
    tensors: Mapping[str, torch.Tensor], plan: EnginePlan, shape: ModelShape
) -> Mapping[str, torch.Tensor]:
    """The tensors of a layer of this shape as it computes with them."""
    return {
        name: as_computed(tensor, name, shape).to(plan.device, tensor_dtype(plan, name))
        for name, tensor in tensors.items()
    }


def tensor_dtype(plan: EnginePlan, name: str) -> torch.dtype:
    """In which format a layer's tensor is kept: the engine's, but for gains `1 + w` of norms.

    Those are too near each other for 16 bits.
    """
    has_offset = plan.shape.described.norm_offset != 0 and is_norm(name)
    return torch.float32 if has_offset else torch_dtype(plan.dtype)

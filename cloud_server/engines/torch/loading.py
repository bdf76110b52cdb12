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
from cloud_server.engines.torch.kv_slab import KvShape
from cloud_server.engines.torch.layer import LayerPlace, LayerSettings, MiddleLayer
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
    def kv_shape(self) -> KvShape:
        """What a cached position holds."""
        return KvShape(
            num_layers=self.num_layers,
            num_kv_heads=self.shape.num_key_value_heads,
            head_dim=self.shape.head_dim,
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
    settings = LayerSettings(plan.shape, plan.chosen_attention, plan.packed)
    end_layer = plan.first_layer + plan.num_layers
    windows = plan.shape.sliding_windows[plan.first_layer : end_layer]
    make_layer = MiddleLayer if is_plain(plan.shape) else DescribedLayer
    layers = [
        make_layer(
            LayerPlace(index, window, plan.shape.rope_index(plan.first_layer + index)),
            _converted(layer_tensors(index), plan),
            settings,
        )
        for index, window in enumerate(windows)
    ]
    return TorchMiddleEngine(layers, windows, settings, plan.kv_shape, plan.dtype, limits)


def _converted(tensors: Mapping[str, torch.Tensor], plan: EnginePlan) -> Mapping[str, torch.Tensor]:
    return {
        name: as_computed(tensor, name, plan.shape).to(plan.device, tensor_dtype(plan, name))
        for name, tensor in tensors.items()
    }


def tensor_dtype(plan: EnginePlan, name: str) -> torch.dtype:
    """In which format a layer's tensor is kept: the engine's, but for gains `1 + w` of norms.

    Those are too near each other for 16 bits.
    """
    has_offset = plan.shape.described.norm_offset != 0 and is_norm(name)
    return torch.float32 if has_offset else torch_dtype(plan.dtype)

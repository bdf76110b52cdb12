"""A torch middle engine from weights, layer by layer, never the whole model twice."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from cloud_server.engines.torch.attention import Attention, FusedAttention, MatmulAttention
from cloud_server.engines.torch.engine import EngineLimits, TorchMiddleEngine
from cloud_server.engines.torch.kv_slab import KvShape
from cloud_server.engines.torch.layer import LayerSettings, MiddleLayer
from cloud_server.engines.torch.rows import torch_dtype
from submodels.manifest import ModelShape
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
    layers = [
        MiddleLayer(index, window, _converted(layer_tensors(index), plan), settings)
        for index, window in enumerate(windows)
    ]
    return TorchMiddleEngine(layers, windows, settings, plan.kv_shape, plan.dtype, limits)


def _converted(tensors: Mapping[str, torch.Tensor], plan: EnginePlan) -> Mapping[str, torch.Tensor]:
    dtype = torch_dtype(plan.dtype)
    return {name: tensor.to(plan.device, dtype) for name, tensor in tensors.items()}

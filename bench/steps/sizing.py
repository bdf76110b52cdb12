"""Memory and traffic of a split model, computed from its shape. Nothing here is measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from submodels.manifest import ModelShape
from submodels.plan.plan import read_model
from submodels.tensors.tensor_layout import Part, placements

STATE_BYTES = 2
"""Of one number of a row, and of one number in the KV cache: float16 or bfloat16."""

WEIGHT_BITS: Mapping[str, float] = {"16 bit": 16.0, "8 bit": 8.0, "4 bit": 4 + (16 + 4) / 128}
"""Per weight. 4 bit: groups of 128 weights share a scale of 16 bits and a zero of 4 (AWQ, GPTQ)."""

GIB = 1 << 30
MEMORY_SHARE = 0.9
"""Of a GPU's memory, for everything; what `--gpu-memory-utilization` says."""

RESERVE_BYTES = 2 * GIB
"""For activations, CUDA graphs and communication, which vLLM measures at start. Assumed here."""


@dataclass(frozen=True, slots=True)
class SplitModel:
    """A model's shape and where it is cut."""

    name: str
    shape: ModelShape
    num_input_layers: int
    num_output_layers: int = 0

    @property
    def num_middle_layers(self) -> int:
        """How many layers the cloud runs."""
        return self.shape.num_layers - self.num_input_layers - self.num_output_layers

    @property
    def num_cloud_weights(self) -> int:
        """Numbers in the cloud bundle."""
        return sum(self._weights(Part.MIDDLE))

    @property
    def num_device_weights(self) -> int:
        """Numbers in the device bundle, without an adapter."""
        return sum(self._weights(Part.INPUT)) + sum(self._weights(Part.OUTPUT))

    @property
    def row_bytes(self) -> int:
        """One hidden state on the wire, exact."""
        return self.shape.hidden_size * STATE_BYTES

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one position in all middle layers."""
        return self.num_middle_layers * self._layer_kv_bytes(self.shape.num_key_value_heads)

    def cloud_bytes(self, bits: float) -> float:
        """The middle layers' weights at so many bits each."""
        return self.num_cloud_weights * bits / 8

    def on(self, gpus: "Gpus", bits: float) -> "PerGpu":
        """What one GPU of the fullest pipeline stage holds.

        Layers are dealt out evenly, the first stages one more; a layer's weights and KV heads are
        divided among the GPUs of its stage, but a KV head is never divided.
        """
        num_layers = math.ceil(self.num_middle_layers / gpus.num_stages)
        weight_bytes = self.cloud_bytes(bits) * num_layers / self.num_middle_layers
        num_kv_heads = math.ceil(self.shape.num_key_value_heads / gpus.num_per_stage)
        return PerGpu(
            weight_bytes / gpus.num_per_stage,
            num_layers * self._layer_kv_bytes(num_kv_heads),
            gpus.memory_bytes,
        )

    def stage_bytes(self, num_rows: int) -> int:
        """Of a step, from one pipeline stage to the next: hidden states and residuals apart, as
        vLLM does."""
        return 2 * num_rows * self.row_bytes

    def reduce_bytes(self, num_rows: int, num_gpus: int) -> float:
        """Of a step, sent by each of a stage's GPUs in all: two sums per layer, in a ring."""
        num_sums = 2 * self.num_middle_layers
        return num_sums * num_rows * self.row_bytes * 2 * (num_gpus - 1) / num_gpus

    def _layer_kv_bytes(self, num_kv_heads: int) -> int:
        return 2 * num_kv_heads * self.shape.head_dim * STATE_BYTES

    def _weights(self, part: Part) -> Sequence[int]:
        placed = placements(self.shape, self.num_input_layers, self.num_output_layers)
        return [math.prod(tensor.shape) for tensor in placed if tensor.part is part]


@dataclass(frozen=True, slots=True)
class Gpus:
    """Equal GPUs: `num_stages` one after the other, `num_per_stage` side by side in each."""

    memory_bytes: int
    num_per_stage: int = 1
    num_stages: int = 1

    def __str__(self) -> str:
        num_gpus = self.num_per_stage * self.num_stages
        return f"{num_gpus} of {self.memory_bytes // GIB} GiB"


@dataclass(frozen=True, slots=True)
class PerGpu:
    """One GPU's share of weights, and of one position's keys and values."""

    weight_bytes: float
    kv_bytes_per_token: int
    memory_bytes: int

    @property
    def capacity_tokens(self) -> int:
        """KV positions over all sessions; 0 where the weights do not fit."""
        free_bytes = MEMORY_SHARE * self.memory_bytes - RESERVE_BYTES - self.weight_bytes
        return max(0, int(free_bytes // self.kv_bytes_per_token))


def model_of(
    name: str, config: Mapping[str, Any], num_input_layers: int, num_output_layers: int = 0
) -> SplitModel:
    """The model that a config.json describes."""
    return SplitModel(name, read_model(config).shape, num_input_layers, num_output_layers)


def known_models() -> tuple[SplitModel, ...]:
    """The models of docs/scaling.md, split as `hat split` does by default.

    The keys are those of their config.json that sizes depend on.
    """
    llama = {"model_type": "llama", "hidden_act": "silu", "tie_word_embeddings": False}
    seven = llama | {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
    }
    eight = seven | {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
    }
    seventy = eight | {
        "num_hidden_layers": 80,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_attention_heads": 64,
    }
    return (
        model_of("Llama-2-7B, Vicuna-7B", seven, 2),
        model_of("Llama-3.1-8B", eight, 2),
        model_of("Llama-3.1-70B", seventy, 3),
    )

"""Random checkpoints of every family and variant, split, and run part by part in torch."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from submodels.bundle.bundle import Bundle, load_bundle
from submodels.bundle.layer_weights import Placed, load_embedding
from submodels.bundle.layers import LayerCache, embed, load_head, load_layers, run_layers
from submodels.random_models import RandomModel
from submodels.split import SplitOptions, SplitResult, split_checkpoint
from submodels.tensors.tensor_layout import Part

_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
_QWEN_WINDOWS = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2}
_MIXED_LAYERS = ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]


def _variant(family: Any, extra: Mapping[str, Any] | None = None, **settings: Any) -> RandomModel:
    return RandomModel(family, extra=extra or {}, **settings)


VARIANTS: Mapping[str, RandomModel] = MappingProxyType(
    {
        "llama": _variant("llama"),
        "llama tied": _variant("llama", tied=True),
        "llama sharded": _variant("llama", max_shard_bytes=100_000),
        "llama with biases": _variant("llama", {"attention_bias": True, "mlp_bias": True}),
        "llama without groups": _variant("llama", num_key_value_heads=4),
        "llama, one key-value head": _variant("llama", num_key_value_heads=1),
        "llama, llama3 rope": _variant("llama", {"rope_parameters": _LLAMA3}),
        "llama, linear rope": _variant(
            "llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.5}}
        ),
        "llama, bfloat16": _variant("llama", dtype="bfloat16"),
        "mistral": _variant("mistral"),
        "mistral sliding": _variant("mistral", {"sliding_window": 7}),
        "mistral, window of one": _variant("mistral", {"sliding_window": 1}),
        "mistral, wide heads": _variant("mistral", {"sliding_window": 9}, head_dim=24),
        "qwen2": _variant("qwen2"),
        "qwen2 tied": _variant("qwen2", tied=True),
        "qwen2 sliding": _variant("qwen2", _QWEN_WINDOWS),
        "qwen2, yarn rope": _variant("qwen2", {"rope_parameters": _YARN}),
        "qwen3": _variant("qwen3"),
        "qwen3 tied, wide heads": _variant("qwen3", tied=True, head_dim=32),
        "qwen3 with biases": _variant("qwen3", {"attention_bias": True}),
        "qwen3, mixed layers, yarn with scaling, sharded": _variant(
            "qwen3",
            {
                "use_sliding_window": True,
                "sliding_window": 5,
                "layer_types": _MIXED_LAYERS,
                "rope_parameters": _YARN | {"attention_factor": 1.3, "beta_fast": 16.0},
            },
            max_shard_bytes=100_000,
        ),
    }
)
"""Every feature that a family adds, alone or with others, by a name for test reports."""


@cache
def reference_logits(folder: Path, token_ids: tuple[int, ...]) -> Tensor:
    """Logits `[T, V]` of the unsplit model by transformers, eager, in float32."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([token_ids])).logits[0]
    return logits


def random_tokens(num_tokens: int, vocab_size: int, seed: int = 1) -> tuple[int, ...]:
    """Token ids, each of the vocabulary alike."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(vocab_size, (num_tokens,), generator=generator).tolist())


def split(
    model: Path, out: Path, num_input: int, num_output: int = 0, **options: Any
) -> SplitResult:
    """Split without ONNX files, which these tests do not look at."""
    options = {"onnx_weights": (), **options}
    return split_checkpoint(SplitOptions(str(model), out, num_input, num_output, **options))


class SplitModel:
    """The three parts of a split model, run one after the other with their own caches."""

    def __init__(self, out: Path) -> None:
        self.device: Bundle = load_bundle(out, "device", verify=True)
        self.cloud: Bundle = load_bundle(out, "cloud", verify=True)
        placed = Placed(torch.float32)
        self._table = load_embedding(self.device, placed)
        self._head = load_head(self.device, placed)
        self._layers = [
            *load_layers(self.device, Part.INPUT, placed),
            *load_layers(self.cloud, Part.MIDDLE, placed),
            *load_layers(self.device, Part.OUTPUT, placed),
        ]
        self._caches = [LayerCache() for _ in self._layers]

    @torch.inference_mode()
    def logits(self, token_ids: Sequence[int], position: int) -> Tensor:
        """Logits `[T, V]` of tokens at `[position, position + T)`."""
        rows = embed(self._table, token_ids)
        return self._head(run_layers(self._layers, rows, position, self._caches))

    def chunked_logits(self, token_ids: Sequence[int], chunk_sizes: Sequence[int]) -> Tensor:
        """Logits of all tokens, fed in chunks of the sizes given, over and over."""
        chunks: list[Tensor] = []
        position = 0
        while position < len(token_ids):
            size = chunk_sizes[len(chunks) % len(chunk_sizes)]
            chunks.append(self.logits(token_ids[position : position + size], position))
            position += size
        return torch.cat(chunks)

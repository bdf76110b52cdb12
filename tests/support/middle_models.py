"""Tiny seeded transformers models, and what the middle layers of each must compute."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from transformers import (
    Gemma4TextConfig,
    Gemma4TextModel,
    GptOssConfig,
    GptOssModel,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    Olmo3Config,
    Olmo3Model,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
    Qwen3MoeConfig,
    Qwen3MoeModel,
)

from submodels.manifest import ModelShape, Rope
from submodels.plan.plan import read_model

NUM_LAYERS = 5
FIRST_LAYER = 1
NUM_MIDDLE_LAYERS = 3
MAX_CONTEXT = 1200

_COMMON = MappingProxyType(
    {
        "num_hidden_layers": NUM_LAYERS,
        "hidden_size": 48,
        "intermediate_size": 80,
        "vocab_size": 32,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": MAX_CONTEXT,
    }
)

_LONG = MappingProxyType(
    {"rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 32}
)
_LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_YARN = {"rope_type": "yarn"}
_YARN_SCALED = {"rope_type": "yarn", "attention_factor": 1.7, "beta_fast": 16.0}


def _rope(changes: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"rope_parameters": {**_LONG, **changes}}


_SCALED_ROPES = MappingProxyType(
    {
        "llama-linear-rope": (LlamaModel, LlamaConfig, _rope({"rope_type": "linear"})),
        "llama-llama3-rope": (LlamaModel, LlamaConfig, _rope(_LLAMA3)),
        "qwen2-yarn-rope": (Qwen2Model, Qwen2Config, _rope(_YARN)),
        "qwen3-yarn-rope": (Qwen3Model, Qwen3Config, _rope(_YARN_SCALED)),
    }
)
"""Every rope type whose numbers differ from the plain one; yarn scales the attention as well."""

_MIXED = {
    "sliding_window": 9,
    "layer_types": ["full_attention", "sliding_attention"] * 2 + ["full_attention"],
}
_DESCRIBED = MappingProxyType(
    {
        "olmo3": (
            Olmo3Model,
            Olmo3Config,
            {
                **_MIXED,
                "rope_parameters": {
                    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                    "full_attention": {**_LONG, **_YARN},
                },
            },
        ),
        "gpt-oss": (
            GptOssModel,
            GptOssConfig,
            {
                **_MIXED,
                "intermediate_size": 64,
                "num_local_experts": 4,
                "num_experts_per_tok": 2,
                "rope_parameters": {**_LONG, **_YARN},
            },
        ),
        "gemma4": (
            Gemma4TextModel,
            Gemma4TextConfig,
            {
                **_MIXED,
                "num_global_key_value_heads": 1,
                "attention_k_eq_v": True,
                "hidden_size_per_layer_input": 0,
                "enable_moe_block": True,
                "num_experts": 4,
                "top_k_experts": 2,
                "moe_intermediate_size": 64,
            },
        ),
    }
)
"""Families whose shape is read as a split reads it: norms behind each half and over all heads;
experts in one tensor and sinks; heads of other sizes and numbers in some layers, and experts beside
a gated half."""

_FAMILIES = MappingProxyType(
    {
        "llama": (LlamaModel, LlamaConfig, {}),
        "llama-biased": (LlamaModel, LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
        "mistral": (MistralModel, MistralConfig, {"sliding_window": 9}),
        "qwen2": (
            Qwen2Model,
            Qwen2Config,
            {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
        ),
        "qwen2-plain": (Qwen2Model, Qwen2Config, {}),
        "qwen3": (Qwen3Model, Qwen3Config, {"attention_bias": False}),
        "qwen3-moe": (
            Qwen3MoeModel,
            Qwen3MoeConfig,
            {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
        ),
        **_SCALED_ROPES,
        **_DESCRIBED,
    }
)

FAMILIES = tuple(_FAMILIES)
SCALED_ROPES = tuple(_SCALED_ROPES)
_NO_BIAS = torch.nn.Linear(1, 1, bias=False)


@dataclass(frozen=True, slots=True)
class MiddleModel:
    """A model whose layers `[FIRST_LAYER, FIRST_LAYER + NUM_MIDDLE_LAYERS)` are the middle."""

    family: str
    model: PreTrainedModel
    shape: ModelShape

    def layer_tensors(self, index: int) -> Mapping[str, torch.Tensor]:
        """The tensors of one middle layer, by their short names."""
        return self.model.layers[FIRST_LAYER + index].state_dict()

    @torch.inference_mode()
    def rows(self, num_rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What goes into the middle `[T, H]` for random tokens, and what comes out of it."""
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, self.shape.vocab_size, (1, num_rows), generator=generator)
        states = self.model(ids, output_hidden_states=True).hidden_states
        return states[FIRST_LAYER][0], states[FIRST_LAYER + NUM_MIDDLE_LAYERS][0]


def make_middle_model(family: str, seed: int = 0, head_dim: int = 8) -> MiddleModel:
    """A float32 model of the family with all parameters random, norms and biases included."""
    model_class, config_class, extra = _FAMILIES[family]
    config = config_class(**(_COMMON | _heads(head_dim) | extra))
    config._attn_implementation = "eager"
    model = model_class(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            # Clamped experts have to reach their limit of 7.
            scale = 0.3 if "experts.gate_up" in name and family == "gpt-oss" else 0.15
            parameter.copy_(1 + 0.1 * noise if "norm" in name else scale * noise)
        for index, layer in enumerate(model.layers if family == "gemma4" else ()):
            layer.layer_scalar.fill_(0.8 + 0.1 * index)
    is_described = family in _DESCRIBED
    shape = read_model(config.to_dict()).shape if is_described else _shape(config, model)
    return MiddleModel(family, model, shape)


def _heads(head_dim: int) -> dict[str, int]:
    """vLLM takes the head size of Qwen2 from the hidden size, whatever the configuration says."""
    return {
        "head_dim": head_dim,
        "global_head_dim": 2 * head_dim,
        "hidden_size": head_dim * _COMMON["num_attention_heads"],
    }


def _shape(config: PreTrainedConfig, model: PreTrainedModel) -> ModelShape:
    windows = tuple(
        config.sliding_window if kind == "sliding_attention" else None
        for kind in getattr(config, "layer_types", None) or [_only_kind(config)] * NUM_LAYERS
    )
    first = model.layers[0].self_attn
    return ModelShape(
        model_type=config.model_type,
        num_layers=NUM_LAYERS,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.rms_norm_eps,
        hidden_act=config.hidden_act,
        max_context_tokens=config.max_position_embeddings,
        rope=Rope(
            inv_freq=tuple(model.rotary_emb.inv_freq.tolist()),
            attention_scaling=model.rotary_emb.attention_scaling,
        ),
        sliding_windows=windows,
        qkv_bias=first.q_proj.bias is not None,
        output_bias=first.o_proj.bias is not None,
        mlp_bias=getattr(model.layers[0].mlp, "up_proj", _NO_BIAS).bias is not None,
        qk_norm=hasattr(first, "q_norm"),
    )


def _only_kind(config: PreTrainedConfig) -> str:
    windowed = getattr(config, "sliding_window", None) is not None
    return "sliding_attention" if windowed else "full_attention"

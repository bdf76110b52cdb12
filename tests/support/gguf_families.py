"""Random checkpoints of the families whose GGUF files are read, as such a file can say them.

A file does not say which of SmolLM3's layers turn, by what Gemma scales scores or where gpt-oss
clamps: these are as in all published models.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from submodels.random_models import RandomModel
from tests.support.family_models import LONG_ROPE, PARTIAL_ROPE

_LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "attention_factor": 1.3,
    "beta_fast": 16.0,
    "beta_slow": 2.0,
}
_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 64}


_GEMMA4 = {
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention"] * 2 + ["full_attention"],
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "enable_moe_block": False,
    "final_logit_softcapping": 30.0,
}


def _types(period: int, num_layers: int) -> list[str]:
    """Every `period`-th layer sees all."""
    names = "sliding_attention", "full_attention"
    return [names[(layer + 1) % period == 0] for layer in range(num_layers)]


def _model(family: str, tied: bool = False, num_layers: int = 5, **extra: Any) -> RandomModel:
    return RandomModel(family, num_layers=num_layers, tied=tied, extra=extra)


def _ropes(sliding_theta: float, **full: Any) -> dict[str, Any]:
    return {
        "sliding_attention": {"rope_type": "default", "rope_theta": sliding_theta},
        "full_attention": full,
    }


GGUF_FAMILIES: Mapping[str, tuple[str, RandomModel]] = MappingProxyType(
    {
        "mistral 3.2": ("mistral3", _model("mistral")),
        "ministral 3": (
            "mistral3",
            _model(
                "ministral3",
                rope_parameters={
                    "rope_type": "yarn",
                    "rope_theta": 1000.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 128,
                    "beta_fast": 32.0,
                    "beta_slow": 1.0,
                    "mscale": 1.0,
                    "mscale_all_dim": 1.0,
                    "llama_4_scaling_beta": 0.1,
                },
                sliding_window=None,
            ),
        ),
        "seed-oss": ("seed_oss", _model("seed_oss", attention_bias=True, attention_out_bias=False)),
        "granite": (
            "granite",
            _model(
                "granite",
                tied=True,
                attention_multiplier=0.11,
                embedding_multiplier=1.7,
                residual_multiplier=0.6,
                logits_scaling=0.8,
            ),
        ),
        "smollm3": ("smollm3", _model("smollm3", tied=True)),
        "olmo2": ("olmo2", _model("olmo2")),
        "olmo3": (
            "olmo2",
            _model(
                "olmo3",
                sliding_window=6,
                layer_types=_types(4, 5),
                rope_parameters=_ropes(1000.0, **_YARN),
            ),
        ),
        "phi3": ("phi3", _model("phi3", sliding_window=7)),
        "phi4-mini": (
            "phi3",
            _model("phi3", tied=True, sliding_window=None, rope_parameters=PARTIAL_ROPE),
        ),
        "phi4-mini with LongRoPE": (
            "phi3",
            _model(
                "phi3",
                sliding_window=None,
                rope_parameters=LONG_ROPE,
                original_max_position_embeddings=256,
            ),
        ),
        "gemma2": (
            "gemma2",
            _model(
                "gemma2",
                tied=True,
                sliding_window=6,
                query_pre_attn_scalar=16,
                attn_logit_softcapping=3.0,
                final_logit_softcapping=7.0,
            ),
        ),
        "gemma3": (
            "gemma3",
            _model(
                "gemma3_text",
                tied=True,
                num_layers=7,
                sliding_window=6,
                query_pre_attn_scalar=16,
                layer_types=_types(6, 7),
                rope_parameters=_ropes(100.0, rope_type="linear", rope_theta=3000.0, factor=8.0),
            ),
        ),
        "gemma4": ("gemma4", _model("gemma4_text", tied=True, **_GEMMA4)),
        "gemma4, values of their own": (
            "gemma4",
            _model(
                "gemma4_text",
                tied=True,
                **{**_GEMMA4, "attention_k_eq_v": False, "final_logit_softcapping": 9.0},
                rope_parameters=_ropes(
                    100.0,
                    rope_type="proportional",
                    rope_theta=3000.0,
                    partial_rotary_factor=0.625,
                ),
            ),
        ),
        "gemma4 with experts": (
            "gemma4",
            _model(
                "gemma4_text",
                tied=True,
                **{**_GEMMA4, "enable_moe_block": True},
                num_experts=6,
                top_k_experts=2,
                moe_intermediate_size=64,
            ),
        ),
        "cohere2": (
            "cohere2",
            _model(
                "cohere2", tied=True, sliding_window=6, layer_types=_types(4, 5), logit_scale=0.7
            ),
        ),
        "glm4": ("glm4", _model("glm4", attention_bias=True)),
        "exaone4": (
            "exaone4",
            _model(
                "exaone4",
                sliding_window=6,
                layer_types=_types(4, 5),
                rope_parameters=_LLAMA_3,
            ),
        ),
        "exaone4 without windows": (
            "exaone4",
            _model("exaone4", tied=True, sliding_window=None, layer_types=["full_attention"] * 5),
        ),
        "qwen3 moe": ("qwen3moe", _model("qwen3_moe", norm_topk_prob=True, **_EXPERTS)),
        "mixtral": (
            "llama",
            _model("mixtral", num_local_experts=5, num_experts_per_tok=2, sliding_window=None),
        ),
        "gpt-oss": (
            "gpt-oss",
            _model(
                "gpt_oss",
                num_local_experts=5,
                num_experts_per_tok=2,
                sliding_window=6,
                layer_types=_types(2, 5),
            ),
        ),
    }
)
"""llama.cpp's name of the architecture and the model, by a name for test reports."""

"""Random checkpoints of the families whose layers are described otherwise than Llama's."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from submodels.plan import described
from submodels.plan.families import FAMILIES
from submodels.random_models import RandomModel

_NO_WINDOW: Mapping[str, Any] = {"sliding_window": None}
_GRANITE = {
    "attention_multiplier": 0.11,
    "embedding_multiplier": 1.7,
    "residual_multiplier": 0.6,
    "logits_scaling": 0.8,
}
PARTIAL_ROPE = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.75}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "short_factor": [1.0, 1.2, 1.5, 1.1, 1.3, 1.05],
    "long_factor": [1.4, 2.0, 3.5, 6.0, 9.0, 14.0],
    "partial_rotary_factor": 0.75,
    "original_max_position_embeddings": 256,
}
"""Frequencies for heads of 16 of which 12 turn."""
_LOCAL_AND_GLOBAL = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 3000.0, "factor": 8.0},
}
_MIXED = ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]
_GEMMA4 = {
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention", *_MIXED[2:3], *_MIXED[:2]],
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "enable_moe_block": False,
    "use_bidirectional_attention": "vision",
    "final_logit_softcapping": 30.0,
}
"""As the configuration of the 31B says it, but for sizes."""
_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}


def _model(family: str, extra: Mapping[str, Any] | None = None, **settings: Any) -> RandomModel:
    return RandomModel(family, extra=extra or {}, **settings)


FAMILY_MODELS: Mapping[str, RandomModel] = MappingProxyType(
    {
        "granite": _model("granite", _GRANITE),
        "granite tied, with biases": _model(
            "granite", {**_GRANITE, "attention_bias": True, "mlp_bias": True}, tied=True
        ),
        "smollm3": _model("smollm3", {"no_rope_layers": [1, 0, 1, 0, 1]}),
        "smollm3, first layer without rope, window": _model(
            "smollm3",
            {
                "no_rope_layers": [0, 1, 1, 0, 1],
                "use_sliding_window": True,
                "sliding_window": 6,
                "layer_types": _MIXED,
            },
        ),
        "olmo2": _model("olmo2"),
        "olmo2, heads of 24": _model("olmo2", hidden_size=96),
        "olmo3": _model(
            "olmo3",
            {
                "sliding_window": 6,
                "layer_types": _MIXED,
                "rope_parameters": {
                    **_LOCAL_AND_GLOBAL,
                    "full_attention": {
                        "rope_type": "yarn",
                        "rope_theta": 1000.0,
                        "factor": 4.0,
                        "original_max_position_embeddings": 32,
                    },
                },
            },
        ),
        "phi3": _model("phi3", _NO_WINDOW),
        "phi3 sliding": _model("phi3", {"sliding_window": 7}),
        "phi4-mini": _model("phi3", {**_NO_WINDOW, "rope_parameters": PARTIAL_ROPE}, tied=True),
        "phi4-mini with LongRoPE": _model(
            "phi3",
            {
                **_NO_WINDOW,
                "rope_parameters": LONG_ROPE,
                "original_max_position_embeddings": 256,
            },
        ),
        "gemma2": _model(
            "gemma2",
            {
                "sliding_window": 6,
                "query_pre_attn_scalar": 20,
                "attn_logit_softcapping": 3.0,
                "final_logit_softcapping": 7.0,
            },
            tied=True,
        ),
        "gemma3": _model(
            "gemma3_text",
            {
                "sliding_window": 6,
                "query_pre_attn_scalar": 20,
                "layer_types": _MIXED,
                "rope_parameters": _LOCAL_AND_GLOBAL,
            },
            tied=True,
        ),
        "gemma4": _model("gemma4_text", _GEMMA4, tied=True),
        "gemma4, global heads of 24 with values": _model(
            "gemma4_text",
            {
                **_GEMMA4,
                "global_head_dim": 24,
                "attention_k_eq_v": False,
                "final_logit_softcapping": 7.0,
                "attention_bias": True,
                "rope_parameters": {
                    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                    "full_attention": {
                        "rope_type": "proportional",
                        "rope_theta": 3000.0,
                        "partial_rotary_factor": 0.6,
                        "factor": 2.0,
                    },
                },
            },
        ),
        "gemma4, global layer first": _model(
            "gemma4_text",
            {
                **_GEMMA4,
                "layer_types": ["full_attention", *_MIXED[:4]],
                "head_dim": 24,
                "global_head_dim": 16,
            },
            num_key_value_heads=4,
        ),
        "gemma4 with experts": _model(
            "gemma4_text",
            {
                **_GEMMA4,
                "enable_moe_block": True,
                "num_experts": 6,
                "top_k_experts": 2,
                "moe_intermediate_size": 40,
            },
            tied=True,
        ),
        "cohere2": _model(
            "cohere2", {"sliding_window": 6, "layer_types": _MIXED, "logit_scale": 0.7}, tied=True
        ),
        "glm4": _model("glm4", {"attention_bias": True}),
        "glm4, heads of 24": _model("glm4", head_dim=24),
        "exaone4": _model("exaone4", {"sliding_window": 6, "layer_types": _MIXED}),
        "exaone4 without windows": _model(
            "exaone4", {**_NO_WINDOW, "layer_types": ["full_attention"] * 5}, tied=True
        ),
        "qwen3 moe": _model("qwen3_moe", {**_EXPERTS, "norm_topk_prob": True}),
        "qwen3 moe, shares as they are": _model("qwen3_moe", {**_EXPERTS, "norm_topk_prob": False}),
        "mixtral": _model("mixtral", {"num_local_experts": 5, "num_experts_per_tok": 2}),
        "mixtral sliding": _model(
            "mixtral", {"num_local_experts": 4, "num_experts_per_tok": 3, "sliding_window": 7}
        ),
        "gpt-oss": _model(
            "gpt_oss",
            {
                "num_local_experts": 5,
                "num_experts_per_tok": 2,
                "sliding_window": 6,
                "swiglu_limit": 0.9,
                "layer_types": _MIXED,
            },
        ),
    }
)
"""Every family and what may vary in it, by a name for test reports."""


def has_experts(model: RandomModel) -> bool:
    """Whether its device runs layers on torch only."""
    return bool(model.extra.get("enable_moe_block")) or FAMILIES[model.family].describe in (
        described.qwen3_moe,
        described.mixtral,
        described.gpt_oss,
    )

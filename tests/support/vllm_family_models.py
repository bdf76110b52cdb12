"""Random checkpoints of every family in sizes that vLLM has kernels for on a CPU."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from submodels.random_models import RandomModel
from tests.support.family_models import FAMILY_MODELS, LONG_ROPE
from tests.support.split_models import VARIANTS

_CHANGED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "qwen3 moe": {"moe_intermediate_size": 64},
        "phi4-mini with LongRoPE": {
            "rope_parameters": {
                **LONG_ROPE,
                "short_factor": [1.0 + 0.1 * index for index in range(12)],
                "long_factor": [2.0 + 0.5 * index for index in range(12)],
            }
        },
        "gemma4": {"global_head_dim": 64},
        "gemma4 with experts": {"global_head_dim": 64, "moe_intermediate_size": 64},
        # A constant in vLLM.
        "gpt-oss": {"swiglu_limit": 7.0},
    }
)
_CHOSEN = (
    *("granite tied, with biases", "smollm3, first layer without rope, window"),
    *(
        "olmo2",
        "olmo3",
        "gemma2",
        "gemma3",
        "gemma4",
        "gemma4 with experts",
        "cohere2",
        "exaone4",
        "gpt-oss",
    ),
    *("phi4-mini", "phi4-mini with LongRoPE", "glm4", "qwen3 moe", "mixtral"),
    "qwen3, mixed layers, yarn with scaling, sharded",
)


def _on_vllm(name: str) -> RandomModel:
    model = {**VARIANTS, **FAMILY_MODELS}[name]
    return replace(
        model,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        intermediate_size=64,
        extra={**model.extra, **_CHANGED.get(name, {})},
    )


VLLM_MODELS: Mapping[str, RandomModel] = MappingProxyType(
    {name: _on_vllm(name) for name in _CHOSEN}
)
"""A model of every family whose middle is checked on vLLM, by a name for test reports."""

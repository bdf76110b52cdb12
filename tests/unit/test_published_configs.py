"""What models publish as config.json, abridged: keys of old and new styles, flat and nested."""

from collections.abc import Mapping
from typing import Any

import pytest

from submodels.bundle.cloud_config import cloud_config
from submodels.errors import UnsupportedModelError
from submodels.plan.plan import read_model
from submodels.plan.wrappers import text_config

_QWEN3_VL = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "model_type": "qwen3_vl",
    "text_config": {
        "model_type": "qwen3_vl_text",
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "max_position_embeddings": 262144,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rope_scaling": {
            "mrope_interleaved": True,
            "mrope_section": [24, 20, 20],
            "rope_type": "default",
        },
        "rope_theta": 5000000,
        "vocab_size": 151936,
    },
    "tie_word_embeddings": True,
    "vision_config": {"model_type": "qwen3_vl", "depth": 24},
}
_QWEN25_VL = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "eos_token_id": 151645,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "max_position_embeddings": 128000,
    "max_window_layers": 70,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vision_config": {"depth": 32, "hidden_size": 1280},
    "vocab_size": 151936,
}
_MINISTRAL = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "model_type": "mistral3",
    "text_config": {
        "model_type": "ministral3",
        "head_dim": 128,
        "hidden_size": 3072,
        "intermediate_size": 9216,
        "max_position_embeddings": 262144,
        "num_attention_heads": 32,
        "num_hidden_layers": 26,
        "num_key_value_heads": 8,
        "rope_parameters": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 16.0,
            "llama_4_scaling_beta": 0.1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 16384,
            "rope_theta": 1000000.0,
            "rope_type": "yarn",
            "type": "yarn",
        },
        "sliding_window": None,
        "tie_word_embeddings": True,
        "vocab_size": 131072,
    },
    "vision_config": {"model_type": "pixtral"},
}
_INTERNLM3 = {
    "architectures": ["InternLM3ForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_internlm3.InternLM3Config"},
    "model_type": "internlm3",
    "bias": False,
    "qkv_bias": False,
    "eos_token_id": [2, 128131],
    "head_dim": 128,
    "hidden_size": 4096,
    "intermediate_size": 10240,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 48,
    "num_key_value_heads": 2,
    "rope_scaling": {"factor": 6.0, "rope_type": "dynamic"},
    "rope_theta": 50000000,
    "vocab_size": 128512,
}


@pytest.mark.parametrize(
    ("config", "layers", "context", "theta", "is_tied"),
    [
        (_QWEN3_VL, "HatMiddleQwen3ForCausalLM", 262144, 5e6, True),
        (_QWEN25_VL, "HatMiddleQwen2ForCausalLM", 128000, 1e6, True),
        (_MINISTRAL, "HatMiddleMistralForCausalLM", 16384, 1e6, True),
        (_INTERNLM3, "HatMiddleLlamaForCausalLM", 32768, 5e7, False),
    ],
)
def test_what_is_published_is_read(
    config: Mapping[str, Any], layers: str, context: int, theta: float, is_tied: bool
) -> None:
    text = text_config(config)
    model = read_model(text)
    told = cloud_config(text, model, range(2, model.shape.num_layers), "bfloat16")
    assert told["architectures"] == [layers]
    assert (told["max_position_embeddings"], model.shape.max_context_tokens) == (context, context)
    assert (told["rope_parameters"]["rope_theta"], model.shape.tied_embeddings) == (theta, is_tied)
    assert set(model.shape.sliding_windows) == {None}
    nested = config.get("text_config", config)
    assert text.get("eos_token_id", 2) == nested.get("eos_token_id", 2)


def test_a_size_that_no_model_has_is_refused_before_anything_is_made_of_it() -> None:
    with pytest.raises(UnsupportedModelError, match="num_layers: expected a whole number"):
        text_config(_QWEN25_VL | {"num_hidden_layers": 10**15})

"""What models publish as config.json, abridged: keys of old and new styles, flat and nested."""

from collections.abc import Mapping
from typing import Any

import pytest
from transformers import Gemma4TextConfig

from submodels.bundle.cloud_config import cloud_config
from submodels.errors import UnsupportedModelError
from submodels.plan.checks import check_ropes, check_shape
from submodels.plan.plan import read_model
from submodels.plan.wrappers import text_config
from submodels.tensors.tensor_layout import layer_tensor_shapes

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


_GEMMA_4: Mapping[str, Any] = {
    "architectures": ["Gemma4ForConditionalGeneration"],
    "model_type": "gemma4",
    "audio_config": None,
    "vision_config": {"model_type": "gemma4_vision"},
    "tie_word_embeddings": True,
    "text_config": {
        "model_type": "gemma4_text",
        "attention_k_eq_v": True,
        "enable_moe_block": False,
        "final_logit_softcapping": 30.0,
        "global_head_dim": 512,
        "head_dim": 256,
        "hidden_size": 5376,
        "hidden_size_per_layer_input": 0,
        "intermediate_size": 21504,
        "max_position_embeddings": 262144,
        "num_attention_heads": 32,
        "num_global_key_value_heads": 4,
        "num_hidden_layers": 60,
        "num_key_value_heads": 16,
        "num_kv_shared_layers": 0,
        "sliding_window": 1024,
        "tie_word_embeddings": True,
        "use_bidirectional_attention": "vision",
        "vocab_size": 262144,
    },
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


def test_the_heads_of_gemma_4_differ_by_layer() -> None:
    """Sizes and flags of the dense 31B: 50 layers slide, of 60, and 10 have fewer, larger heads."""
    text = text_config(_GEMMA_4)
    model = read_model(text)
    shape, sliding, whole = model.shape, range(50), range(5, 60, 6)
    assert shape.described.layer_heads == (0, 0, 0, 0, 0, 1) * 10
    own, other = shape.heads
    assert (own.head_dim, own.num_key_value_heads, own.keys_are_values) == (256, 16, False)
    assert (other.head_dim, other.num_key_value_heads, other.keys_are_values) == (512, 4, True)
    assert shape.num_cached(range(60)) == 2 * (len(sliding) * 16 * 256 + len(whole) * 4 * 512)
    assert [shape.sliding_windows[layer] for layer in (4, 5)] == [1024, None]
    of_whole = shape.ropes[shape.rope_index(5)].inv_freq
    assert (len(of_whole), sum(frequency > 0 for frequency in of_whole)) == (256, 64)
    assert shape.described.logit_softcap == 30.0
    assert (shape.max_context_tokens, shape.tied_embeddings) == (262144, True)
    check_shape(shape)
    check_ropes(shape, model.rope_parameters)
    wrong = {**model.rope_parameters, "other_1.partial_rotary_factor": 0.5}
    with pytest.raises(ValueError, match=r"rope: frequency 64 is 0\.0"):
        check_ropes(shape, wrong)


def test_a_clouds_config_numbers_heads_as_its_layers() -> None:
    text = text_config(_GEMMA_4)
    told = cloud_config(text, read_model(text), range(2, 58), "bfloat16")
    assert told["architectures"] == ["HatMiddleGemma4ForCausalLM"]
    config = Gemma4TextConfig.from_dict(told)
    sizes = [config.per_layer_config[layer].head_dim for layer in range(5)]
    assert sizes == [256, 256, 256, 512, 256]
    assert config.per_layer_config[3].num_key_value_heads == 4
    assert len(told["per_layer_config"]) == 9


def test_gemma_4_may_have_experts_beside_its_feed_forward_halves() -> None:
    """Sizes of 26B-A4B."""
    moe = {"num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704}
    sizes = {"hidden_size": 2816, "intermediate_size": 2112, "num_hidden_layers": 30}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8, "num_global_key_value_heads": 2}
    nested = {**_GEMMA_4["text_config"], **moe, **sizes, **heads, "enable_moe_block": True}
    shape = read_model(text_config({**_GEMMA_4, "text_config": nested})).shape
    experts = shape.described.experts
    assert experts is not None
    assert (experts.num_experts, experts.num_chosen, experts.inner_size) == (128, 8, 704)
    tensors = layer_tensor_shapes(shape.of_layer(5))
    assert tensors["experts.gate_up_proj"] == (128, 1408, 2816)
    assert tensors["mlp.gate_proj.weight"] == (2112, 2816)
    assert "self_attn.v_proj.weight" not in tensors


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size_per_layer_input": 256}, "embeddings per layer are .* as in E2B and E4B"),
        ({"num_kv_shared_layers": 18}, "keys and values of others .* num_kv_shared_layers 18"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention 'all'"),
    ],
)
def test_other_models_of_gemma_4_are_refused_by_what_they_have(
    changes: Mapping[str, Any], named: str
) -> None:
    nested = {**_GEMMA_4["text_config"], **changes}
    with pytest.raises(UnsupportedModelError, match=named):
        read_model(text_config({**_GEMMA_4, "text_config": nested}))


def test_a_size_that_no_model_has_is_refused_before_anything_is_made_of_it() -> None:
    with pytest.raises(UnsupportedModelError, match="num_layers: expected a whole number"):
        text_config(_QWEN25_VL | {"num_hidden_layers": 10**15})

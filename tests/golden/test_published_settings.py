"""Settings as models are published with them, over tiny sizes: what transformers makes of them.

Old and new spellings, settings that are left to defaults, and ones that nobody reads any more.
Abridged: what every model says the same (`initializer_range`, dropouts) and ids are left out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from submodels.random_models import MIN_VOCAB_SIZE, RandomModel, save_random
from tests.support.other_names import SIGHT
from tests.support.split_models import SplitModel, random_tokens, split

# As in test_families_equal_transformers.py, and twice that for heads of 256.
MAX_ERROR = 2e-4
_SIZES: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": MIN_VOCAB_SIZE + 3,
}
_IDS: Mapping[str, Any] = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": None}
_FULL, _SLIDING = "full_attention", "sliding_attention"
_LONG = {
    "type": "longrope",
    "short_factor": [1] * 6,
    "long_factor": [1, 1.118320672, 1.250641126, 5.984965424, 32.61, 47.77],
}
CAUSAL: Mapping[str, Mapping[str, Any]] = {
    "Phi-4-mini": {
        "architectures": ["Phi3ForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
        "full_attn_mod": 1,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "max_position_embeddings": 131072,
        "model_type": "phi3",
        "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 0.75,
        "rms_norm_eps": 1e-05,
        "rope_scaling": _LONG,
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    },
    "gpt-oss-20b": {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "experts_per_token": 2,
        "head_dim": 16,
        "initial_context_length": 4096,
        "layer_types": [_SLIDING, _FULL] * 3,
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_experts_per_tok": 2,
        "num_local_experts": 4,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "sliding_window": 8,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
    },
    "gemma-3-1b": {
        "architectures": ["Gemma3ForCausalLM"],
        "attn_logit_softcapping": None,
        "cache_implementation": "hybrid",
        "final_logit_softcapping": None,
        "head_dim": 32,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 32768,
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": 256,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 8,
        "sliding_window_pattern": 6,
    },
    "Command R7B": {
        "architectures": ["Cohere2ForCausalLM"],
        "cache_implementation": "hybrid",
        "head_dim": 32,
        "layer_norm_eps": 1e-05,
        "layer_switch": 4,
        "logit_scale": 0.25,
        "max_position_embeddings": 132096,
        "model_type": "cohere2",
        "order_of_interleaved_layers": "local_attn_first",
        "position_embedding_type": "rope_gptj",
        "rope_scaling": None,
        "rope_theta": 50000,
        "rotary_pct": 1.0,
        "sliding_window": 8,
        "sliding_window_pattern": 4,
        "use_embedding_sharing": True,
        "use_parallel_block": True,
    },
    "SmolLM3": {
        "architectures": ["SmolLM3ForCausalLM"],
        "layer_types": [_FULL] * 6,
        "max_position_embeddings": 65536,
        "max_window_layers": 28,
        "mlp_bias": False,
        "model_type": "smollm3",
        "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 1, 1, 0, 1, 1],
        "pretraining_tp": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 5000000.0,
        "sliding_window": None,
        "use_sliding_window": False,
    },
    "EXAONE-4.0-1.2B": {
        "architectures": ["Exaone4ForCausalLM"],
        "head_dim": 32,
        "layer_types": [_FULL] * 6,
        "max_position_embeddings": 65536,
        "model_type": "exaone4",
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 16.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 1000000,
        "sliding_window": None,
        "sliding_window_pattern": None,
        "tie_word_embeddings": True,
    },
    "Qwen3-30B-A3B": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "decoder_sparse_step": 1,
        "head_dim": 32,
        "max_position_embeddings": 40960,
        "max_window_layers": 48,
        "mlp_only_layers": [],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 40,
        "norm_topk_prob": True,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
    },
}
WRAPPED: Mapping[str, Mapping[str, Any]] = {
    "gemma-3-4b": {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "eos_token_id": [256, 257],
        "image_token_index": 259,
        "mm_tokens_per_image": 4,
        "model_type": "gemma3",
        # Heads, their size, the vocabulary and thetas are those of the class.
        "text_config": {
            "hidden_size": 64,
            "intermediate_size": 96,
            "model_type": "gemma3_text",
            "num_hidden_layers": 6,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 8,
            "vocab_size": MIN_VOCAB_SIZE + 3,
        },
        "vision_config": {**SIGHT, "model_type": "siglip_vision_model", "vision_use_head": False},
    },
    "SmolVLM-256M": {
        "architectures": ["Idefics3ForConditionalGeneration"],
        "image_token_id": 259,
        "model_type": "idefics3",
        "scale_factor": 1,
        "text_config": {
            **_SIZES,
            "architectures": ["VLlama3ForCausalLM"],
            "head_dim": 16,
            "is_llama_config": True,
            "max_position_embeddings": 8192,
            "model_type": "llama",
            "pad_token_id": 2,
            "perceiver_config": {"model_type": "vllama3", "qk_layer_norms_perceiver": False},
            "pixel_shuffle_factor": 4,
            "qk_layer_norms": False,
            "rms_norm_eps": 1e-05,
            "rope_interleaved": False,
            "rope_theta": 100000,
            "vocab_size": MIN_VOCAB_SIZE + 3,
        },
        "tie_word_embeddings": False,
        "vision_config": {**SIGHT, "model_type": "idefics3", "use_base_siglip": False},
    },
    "Qwen2-VL-2B": {
        **_SIZES,
        **_IDS,
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "image_token_id": 259,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "model_type": "qwen2_vl",
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "rope_theta": 1000000.0,
        "sliding_window": 8,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": 1,
            "embed_dim": 32,
            "hidden_size": 64,
            "in_chans": 3,
            "mlp_ratio": 4,
            "num_heads": 2,
            "patch_size": 14,
        },
    },
}
PUBLISHED = {n: {**_SIZES, **_IDS, **told} for n, told in CAUSAL.items()} | dict(WRAPPED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_mean_what_transformers_makes_of_them(name: str, tmp_path: Path) -> None:
    folder, told = tmp_path / "model", PUBLISHED[name]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(told))
    network_class: Any = getattr(transformers, told["architectures"][0])
    config = transformers.AutoConfig.from_pretrained(folder)
    save_random(network_class(config), RandomModel(), folder)
    # As it was, not as transformers writes it again.
    (folder / "config.json").write_text(json.dumps(told))
    theirs, loaded = network_class.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not loaded["missing_keys"] | loaded["unexpected_keys"]
    token_ids = random_tokens(60, 256)
    num_input = 0 if "num_experts_per_tok" in told else 2
    split(folder, tmp_path / "out", num_input, num_input // 2)
    with torch.inference_mode():
        expected = theirs(torch.tensor([token_ids])).logits[0]
    logits = SplitModel(tmp_path / "out").chunked_logits(token_ids, (7, 1, 16))
    assert expected.std() > 0.1
    assert (logits - expected).abs().max() < MAX_ERROR

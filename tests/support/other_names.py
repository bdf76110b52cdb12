"""Tiny seeded checkpoints of the families whose layers are another family's, by its own classes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import transformers

from submodels.random_models import MIN_VOCAB_SIZE, RandomModel, save_random

_MODEL = RandomModel(num_layers=4, max_context_tokens=256)
_SIZES: Mapping[str, Any] = MappingProxyType(
    {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        # The least that vLLM's attention on a CPU takes.
        "head_dim": 32,
        "vocab_size": MIN_VOCAB_SIZE + 3,
        "max_position_embeddings": 256,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": None,
    }
)
_QWEN_SIGHT = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": 64,
}
_MISTRAL_SIGHT = {
    "model_type": "pixtral",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 16,
}
SIGHT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
"""The smallest part that sees pictures, for wrappers that are read for their text part."""

_CLIP_SIGHT = {**SIGHT, "model_type": "clip_vision_model", "projection_dim": 32}
_INTERN_SIGHT = {**SIGHT, "image_size": [28, 28], "patch_size": [14, 14]}
_GEMMA4_SIGHT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "patch_size": 4,
    "position_embedding_size": 64,
}
_GEMMA4_HEARING = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "output_proj_dims": 32,
    "subsampling_conv_channels": [8, 4],
}
_UNIFIED_SIGHT = {
    "patch_size": 4,
    "mm_embed_dim": 32,
    "mm_posemb_size": 16,
    "output_proj_dims": 32,
}
_GEMMA4 = {
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "global_head_dim": 64,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "use_bidirectional_attention": "vision",
    "final_logit_softcapping": 30.0,
    "pad_token_id": 0,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def _causal(name: str, **settings: Any) -> Callable[[], Any]:
    def made() -> Any:
        config = getattr(transformers, f"{name}Config")(**{**_SIZES, **settings})
        return transformers.AutoModelForCausalLM.from_config(config)

    return made


def _seeing(
    name: str,
    sight: Mapping[str, Any],
    tied: bool = False,
    hearing: Mapping[str, Any] | None = None,
    **text: Any,
) -> Callable[[], Any]:
    def made() -> Any:
        senses = {"vision_config": dict(sight)}
        if hearing is not None:
            senses["audio_config"] = dict(hearing)
        config = getattr(transformers, f"{name}Config")(
            text_config={**_SIZES, **text}, **senses, tie_word_embeddings=tied
        )
        return getattr(transformers, f"{name}ForConditionalGeneration")(config)

    return made


def _axes(**more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 4, 4], **more}


OTHER_NAMES: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        "seed_oss": _causal("SeedOss", head_dim=64),
        "seed_oss, out biases": _causal("SeedOss", attention_out_bias=True, mlp_bias=True),
        "internlm3": _causal("InternLM3", head_dim=64),
        "internlm3, biases, dynamic": _causal(
            "InternLM3",
            attention_bias=True,
            mlp_bias=True,
            rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 6.0},
        ),
        "iquestcoder": _causal("IQuestCoder"),
        "cwm": _causal("Cwm", sliding_window=6),
        "ministral3": _causal("Ministral3", rope_parameters=_YARN),
        "ministral3, window": _causal("Ministral3", rope_parameters=_YARN, sliding_window=7),
        "qwen2_5_vl": _seeing("Qwen2_5_VL", _QWEN_SIGHT, rope_parameters=_axes()),
        "qwen2_5_vl, window": _seeing(
            "Qwen2_5_VL",
            _QWEN_SIGHT,
            rope_parameters=_axes(),
            use_sliding_window=True,
            sliding_window=6,
            max_window_layers=2,
        ),
        "qwen3_vl": _seeing(
            "Qwen3VL",
            {**_QWEN_SIGHT, "deepstack_visual_indexes": [0]},
            rope_parameters=_axes(mrope_interleaved=True),
        ),
        "qwen3_vl, tied": _seeing(
            "Qwen3VL",
            {**_QWEN_SIGHT, "deepstack_visual_indexes": [0]},
            tied=True,
            rope_parameters=_axes(mrope_interleaved=True),
        ),
        "mistral3": _seeing("Mistral3", _MISTRAL_SIGHT, model_type="mistral", sliding_window=None),
        "gemma3": _seeing("Gemma3", SIGHT, tied=True, sliding_window=6, sliding_window_pattern=2),
        "qwen2_vl": _seeing(
            "Qwen2VL",
            {**_QWEN_SIGHT, "embed_dim": 32, "hidden_size": 64},
            tied=True,
            rope_parameters=_axes(),
        ),
        "llava": _seeing("Llava", _CLIP_SIGHT, model_type="llama"),
        "llava of mistral, as Pixtral": _seeing(
            "Llava", _MISTRAL_SIGHT, model_type="mistral", sliding_window=None
        ),
        "llava_next": _seeing("LlavaNext", _CLIP_SIGHT, model_type="mistral", sliding_window=5),
        "llava_onevision": _seeing("LlavaOnevision", _CLIP_SIGHT, model_type="qwen2"),
        "internvl": _seeing("InternVL", _INTERN_SIGHT, model_type="qwen3"),
        "idefics3": _seeing("Idefics3", SIGHT, model_type="llama"),
        "smolvlm": _seeing("SmolVLM", SIGHT, tied=True, model_type="llama"),
        "exaone4_5": _seeing(
            "Exaone4_5_",
            {**_QWEN_SIGHT, "num_key_value_heads": 1},
            model_type="exaone4",
            sliding_window=6,
            layer_types=["sliding_attention", "full_attention"] * 2,
        ),
        "gemma4": _seeing("Gemma4", _GEMMA4_SIGHT, tied=True, hearing=_GEMMA4_HEARING, **_GEMMA4),
        "gemma4_unified": _seeing(
            "Gemma4Unified", _UNIFIED_SIGHT, tied=True, hearing={"audio_embed_dim": 32}, **_GEMMA4
        ),
        "mistral3 of ministral3": _seeing(
            "Mistral3", _MISTRAL_SIGHT, model_type="ministral3", rope_parameters=_YARN
        ),
    }
)
"""What each is by name, and its network with random weights still to come."""


def make_other_name(name: str, folder: Path) -> RandomModel:
    """Write one of them as a checkpoint; what was made."""
    save_random(OTHER_NAMES[name](), _MODEL, folder)
    return _MODEL

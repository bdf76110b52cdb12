"""What the config.json of each family says that not all of them do, read from a GGUF file.

Where a file says nothing, it is what llama.cpp takes for it, or what all models of the family are.
"""

from typing import Any

from submodels.checkpoint.gguf.file import GgufFile
from submodels.checkpoint.gguf.rope import (
    long_rope_parameters,
    proportional_rope_parameters,
    rope_parameters,
    rope_theta,
)
from submodels.errors import CheckpointError
from submodels.plan.checks import check_size

Settings = dict[str, Any]

SLIDING, FULL = "sliding_attention", "full_attention"
_WINDOW, _PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"


def llama(file: GgufFile) -> Settings:
    """Biases, which show in the tensors alone."""
    return {**_attention_bias(file), "mlp_bias": file.has_in_layers("ffn_up.bias")}


def mistral(file: GgufFile) -> Settings:
    """A window in every layer, or none."""
    return {"sliding_window": file.integer(_WINDOW, 0) or None}


def ministral3(file: GgufFile) -> Settings:
    """Mistral, but for queries that are scaled from a length on."""
    rope = {
        **rope_parameters(file, with_log_multiplier=True),
        "llama_4_scaling_beta": file.number("attention.temperature_scale"),
    }
    return {**mistral(file), "rope_parameters": rope}


def qwen2(file: GgufFile) -> Settings:
    """No windows: the converter does not say of any."""
    return {"use_sliding_window": False}


def qwen3(file: GgufFile) -> Settings:
    """Biases."""
    return {**qwen2(file), **_attention_bias(file)}


def seed_oss(file: GgufFile) -> Settings:
    """Biases of queries, keys and values, of the output, and of the feed-forward half."""
    return {**llama(file), "attention_out_bias": file.has_in_layers("attn_output.bias")}


def granite(file: GgufFile) -> Settings:
    """Four multipliers."""
    return {
        **llama(file),
        "attention_multiplier": file.number("attention.scale", file.head_dim**-0.5),
        "embedding_multiplier": file.number("embedding_scale", 1.0),
        "residual_multiplier": file.number("residual_scale", 1.0),
        "logits_scaling": file.number("logit_scale"),
    }


def smollm3(file: GgufFile) -> Settings:
    """Each fourth layer does not turn, which no setting says."""
    num_layers = file.integer("block_count")
    return {
        **llama(file),
        "no_rope_layers": [int((layer + 1) % 4 != 0) for layer in range(num_layers)],
        "use_sliding_window": False,
    }


def olmo2(file: GgufFile) -> Settings:
    """Biases."""
    return _attention_bias(file)


def olmo3(file: GgufFile) -> Settings:
    """Three of four layers slide, and what stretches rotary embeddings leaves these alone."""
    full = rope_parameters(file)
    theta = file.number("rope.freq_base_swa", rope_theta(file))
    return {
        **_attention_bias(file),
        **_windows(file, 4),
        "rope_parameters": {FULL: full, SLIDING: {"rope_type": "default", "rope_theta": theta}},
    }


def phi3(file: GgufFile) -> Settings:
    """LongRoPE where the file has its factors; a window of 0 is none."""
    original = file.integer("rope.scaling.original_context_length", file.integer("context_length"))
    return {
        **mistral(file),
        "original_max_position_embeddings": original,
        "rope_parameters": long_rope_parameters(file, original) or rope_parameters(file),
    }


def gemma2(file: GgufFile) -> Settings:
    """Each second layer slides; scores and logits have caps, which old files do not say."""
    return {
        **_gemma(file, 46),
        **_windows(file, 2, 4096),
        "attn_logit_softcapping": file.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": file.number("final_logit_softcapping", 30.0),
    }


def gemma3(file: GgufFile) -> Settings:
    """Five of six layers slide, and turn by a base of their own that nothing stretches."""
    theta = file.number("rope.freq_base_swa", 10_000.0)
    return {
        **_gemma(file, 62),
        **_windows(file, 6, 0),
        "final_logit_softcapping": file.number("final_logit_softcapping", 0.0) or None,
        "rope_parameters": {
            FULL: rope_parameters(file),
            SLIDING: {"rope_type": "default", "rope_theta": theta},
        },
    }


def _gemma(file: GgufFile, layers_of_27b: int) -> Settings:
    """`layers_of_27b`: the size whose scores are scaled by hidden size per head, not by heads."""
    scaled_by = file.head_dim
    if file.integer("block_count") == layers_of_27b:
        scaled_by = file.integer("embedding_length") // file.integer("attention.head_count")
    return {
        **_attention_bias(file),
        "query_pre_attn_scalar": scaled_by,
        "hidden_activation": "gelu_pytorch_tanh",
    }


def gemma4(file: GgufFile) -> Settings:
    """Heads of layers that slide and of those that do not; in the latter keys may be the values."""
    windows = _windows(file, 6)
    is_global = [each == FULL for each in windows["layer_types"]]
    values = {f"blk.{layer}.attn_v.weight" for layer, each in enumerate(is_global) if each}
    theta = file.number("rope.freq_base_swa", 10_000.0)
    heads = {
        name: _of_all(file, "attention.head_count_kv", is_global, which)
        for name, which in (("num_key_value_heads", False), ("num_global_key_value_heads", True))
    }
    return {
        **_attention_bias(file),
        **windows,
        **{name: count for name, count in heads.items() if count is not None},
        "head_dim": file.integer("attention.key_length_swa", file.head_dim),
        "global_head_dim": file.head_dim,
        "attention_k_eq_v": not values <= file.tensors.keys(),
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
        **_experts_beside(file),
        "final_logit_softcapping": file.number("final_logit_softcapping", 0.0) or None,
        "rope_parameters": {
            FULL: proportional_rope_parameters(file),
            SLIDING: {"rope_type": "default", "rope_theta": theta},
        },
    }


def _experts_beside(file: GgufFile) -> Settings:
    """All layers of a Gemma 4 have experts beside their feed-forward half, or none."""
    if not file.get("expert_count"):
        return {"enable_moe_block": False}
    experts = _experts(file, "num_experts")
    return {
        "enable_moe_block": True,
        "num_experts": experts["num_experts"],
        "top_k_experts": experts["num_experts_per_tok"],
        "moe_intermediate_size": file.integer("expert_feed_forward_length"),
    }


def _of_all(file: GgufFile, name: str, is_global: list[bool], which: bool) -> int | None:
    """What a setting says for all layers that are global, or for all others; None: there are none.

    Raises:
        CheckpointError: no count, or not the same one for all.
    """
    stored = file.get(name)
    counts = stored if isinstance(stored, list) else [stored] * len(is_global)
    if len(counts) != len(is_global):
        raise CheckpointError(
            f"{file.path}: expected {len(is_global)} of {name}, got {len(counts)}"
        )
    found = {each for each, own in zip(counts, is_global, strict=True) if own == which}
    if not found:
        return None
    if len(found) > 1 or not all(type(each) is int for each in found):
        raise CheckpointError(f"{file.path}: expected {name} as one number, got {stored!r:.60}")
    return int(found.pop())


def cohere2(file: GgufFile) -> Settings:
    """Three of four layers slide; one eps for norms by mean and deviation."""
    return {
        **_attention_bias(file),
        **_windows(file, 4),
        "logit_scale": file.number("logit_scale"),
        "layer_norm_eps": file.number("attention.layer_norm_epsilon"),
    }


def glm4(file: GgufFile) -> Settings:
    """Biases of queries, keys and values."""
    return _attention_bias(file)


def exaone4(file: GgufFile) -> Settings:
    """Three of four layers slide, or none."""
    return _windows(file, 4, 0)


def mixtral(file: GgufFile) -> Settings:
    """Experts in every layer."""
    return {**_experts(file, "num_local_experts"), "sliding_window": None}


def qwen3_moe(file: GgufFile) -> Settings:
    """Experts in every layer, whose shares make one."""
    inner_size = file.integer("feed_forward_length")
    chosen = file.integer("expert_used_count")
    return {
        **qwen3(file),
        **_experts(file, "num_experts"),
        "moe_intermediate_size": file.integer(
            "expert_feed_forward_length", inner_size // max(chosen, 1)
        ),
        "norm_topk_prob": bool(file.get("expert_weights_norm", True)),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def gpt_oss(file: GgufFile) -> Settings:
    """Experts in every layer; each second layer slides. Their clamp is that of all such models."""
    return {
        **_attention_bias(file),
        **_windows(file, 2),
        **_experts(file, "num_local_experts"),
        "intermediate_size": file.integer(
            "expert_feed_forward_length", file.integer("feed_forward_length")
        ),
        "rope_parameters": {**rope_parameters(file), "truncate": False},
        "swiglu_limit": 7.0,
    }


def _attention_bias(file: GgufFile) -> Settings:
    return {"attention_bias": file.has_in_layers("attn_q.bias")}


def _experts(file: GgufFile, name: str) -> Settings:
    count = file.integer("expert_count")
    try:
        check_size("num_experts", count)
    except ValueError as error:
        raise CheckpointError(f"{file.path}: {error}") from error
    return {name: count, "num_experts_per_tok": file.integer("expert_used_count")}


def _windows(file: GgufFile, period: int, default: int | None = None) -> Settings:
    """The window, 0 for none, and which layers slide: all but each `period`-th, or as is said."""
    num_layers, window = file.integer("block_count"), file.integer(_WINDOW, default)
    if not window:
        return {"sliding_window": None, "layer_types": [FULL] * num_layers}
    pattern = file.get(_PATTERN, period)
    if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern >= 0:
        slides = [not pattern or layer % pattern < pattern - 1 for layer in range(num_layers)]
    elif isinstance(pattern, list) and len(pattern) == num_layers:
        slides = [bool(each) for each in pattern]
    else:
        raise CheckpointError(
            f"{file.path}: expected {_PATTERN} as a number or {num_layers} of them, got "
            f"{pattern!r:.60}"
        )
    return {
        "sliding_window": window,
        "layer_types": [SLIDING if each else FULL for each in slides],
    }

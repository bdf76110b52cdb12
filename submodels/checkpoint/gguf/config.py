"""A GGUF file's settings as the config.json that transformers would have for the model."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from submodels.checkpoint.gguf.file import GgufFile
from submodels.checkpoint.gguf.rope import rope_parameters
from submodels.errors import CheckpointError, UnsupportedModelError
from submodels.plan.families import FAMILIES

_EMBEDDING, _HEAD, _ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"

# What these say changes the arithmetic, and plain models do without.
_REFUSED_SETTINGS = (
    "expert_count",
    "attention.scale",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "embedding_scale",
    "residual_scale",
    "logit_scale",
)


_ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")


def check_supported(file: GgufFile) -> None:
    """Return if this kind of model can be split.

    Raises:
        UnsupportedModelError: another architecture, or a setting that none of ours has.
    """
    if file.architecture not in _ARCHITECTURES:
        raise UnsupportedModelError(
            f"{file.path}: architecture {file.architecture!r:.60} is not supported; supported: "
            f"{', '.join(_ARCHITECTURES)}"
        )
    for name in _REFUSED_SETTINGS:
        if file.get(name):
            raise UnsupportedModelError(
                f"{file.path}: {file.architecture}.{name} is {file.get(name)!r:.40}, which is not "
                "supported"
            )
    if file.get("attention.causal") is False:
        raise UnsupportedModelError(f"{file.path} is no model that continues texts")


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """The configuration of a supported model, but for its special tokens.

    Raises:
        UnsupportedModelError: a rotary embedding or a window that is not supported.
        CheckpointError: a setting or the embedding is missing, or cannot be.
    """
    family = FAMILIES[file.architecture]
    hidden_size, num_heads = file.integer("embedding_length"), file.integer("attention.head_count")
    head_dim = file.integer("attention.key_length", hidden_size // max(num_heads, 1))
    _check_heads(file, head_dim)
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "num_hidden_layers": file.integer("block_count"),
        "hidden_size": hidden_size,
        "intermediate_size": file.integer("feed_forward_length"),
        "vocab_size": _vocab_size(file),
        "num_attention_heads": num_heads,
        "num_key_value_heads": file.integer("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "max_position_embeddings": file.integer("context_length"),
        "rms_norm_eps": file.number("attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "rope_parameters": rope_parameters(file, head_dim, _rope_factors(file)),
        "tie_word_embeddings": _HEAD not in file.tensors,
        **_family_settings(file),
    }


def _check_heads(file: GgufFile, head_dim: int) -> None:
    for name in ("attention.value_length", "rope.dimension_count"):
        if file.integer(name, head_dim) != head_dim:
            raise UnsupportedModelError(
                f"{file.path}: {file.architecture}.{name} is {file.integer(name)}, expected that "
                f"of keys, {head_dim}; other models are not supported"
            )


def _vocab_size(file: GgufFile) -> int:
    """The embedding's rows; the list of tokens may be shorter."""
    if _EMBEDDING not in file.tensors:
        raise CheckpointError(f"{file.path} has no {_EMBEDDING}")
    return file.tensors[_EMBEDDING].shape[0]


def _rope_factors(file: GgufFile) -> NDArray[np.float32] | None:
    stored = file.tensors.get(_ROPE_FACTORS)
    if stored is None:
        return None
    if stored.type.name != "F32":
        raise UnsupportedModelError(f"{file.path}: {_ROPE_FACTORS} is {stored.type.name}, not F32")
    with stored.path.open("rb") as source:
        source.seek(stored.start)
        return np.frombuffer(source.read(stored.num_bytes), "<f4")


def _family_settings(file: GgufFile) -> dict[str, Any]:
    """Biases, which show in the tensors alone, and the window."""
    window = file.get("attention.sliding_window")
    if window is not None:
        window = file.integer("attention.sliding_window")
    if file.architecture == "mistral":
        return {"sliding_window": window}
    if window is not None and window < file.integer("context_length"):
        raise UnsupportedModelError(
            f"{file.path}: a sliding window is not supported in {file.architecture} files"
        )
    if file.architecture == "qwen2":
        return {"use_sliding_window": False}
    kinds = {name.split(".", 2)[-1] for name in file.tensors}
    settings = {"attention_bias": "attn_q.bias" in kinds}
    if file.architecture == "llama":
        settings["mlp_bias"] = "ffn_up.bias" in kinds
    return settings

"""A GGUF file's settings as the config.json that transformers would have for the model."""

from typing import Any

from submodels.checkpoint.gguf.architectures import Architecture, architecture_of
from submodels.checkpoint.gguf.file import HEADS, GgufFile
from submodels.checkpoint.gguf.rope import rope_parameters, rotary_dim
from submodels.errors import CheckpointError, UnsupportedModelError
from submodels.plan.families import FAMILIES
from submodels.plan.plan import refuse_absurd_sizes

_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"

# What these say changes the arithmetic, and models that are not said to know them do without.
_REFUSED_SETTINGS = (
    "expert_count",
    "expert_shared_count",
    "expert_shared_feed_forward_length",
    "expert_group_count",
    "leading_dense_block_count",
    "interleave_moe_layer_step",
    "nextn_predict_layers",
    "embedding_length_per_layer_input",
    "attention.shared_kv_layers",
    "attention.scale",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.temperature_scale",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "embedding_scale",
    "residual_scale",
    "logit_scale",
    "rope.dimension_sections",
)
# Values that are what they would be without the setting; another one is refused.
_USUAL = {
    "attention.causal": (True,),
    "expert_gating_func": (0, 1, 3),
    "expert_weights_scale": (0.0, 1.0),
    "rope.scaling.finetuned": (True,),
}
"""Gating 1 is softmax, 3 softmax over the chosen ones, which is the same share; of `finetuned`,
Granite alone takes the contrary for layers that do not turn."""
_OF_GRANITE = "rope.scaling.finetuned"


def check_supported(file: GgufFile) -> None:
    """Return if this kind of model can be split.

    Raises:
        UnsupportedModelError: another architecture, or a setting that none of ours has.
    """
    architecture = architecture_of(file)
    for name in _REFUSED_SETTINGS:
        if name not in architecture.known and file.get(name):
            _refuse(file, name)
    for name, usual in _USUAL.items():
        is_elsewhere = name == _OF_GRANITE and architecture.model_type != "granite"
        if not is_elsewhere and file.get(name, usual[0]) not in usual:
            _refuse(file, name)


def _refuse(file: GgufFile, name: str) -> None:
    raise UnsupportedModelError(
        f"{file.path}: {file.architecture}.{name} is {file.get(name)!r:.40}, which is not "
        f"supported in {file.architecture} files; the model's safetensors checkpoint may be"
    )


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """The configuration of a supported model, but for its special tokens.

    Raises:
        UnsupportedModelError: a rotary embedding or a window that is not supported.
        CheckpointError: a setting or the embedding is missing, or cannot be.
    """
    architecture = architecture_of(file)
    family = FAMILIES[architecture.model_type]
    _check_heads(file, architecture)
    num_heads = file.integer(HEADS)
    _check_window(file, architecture)
    config = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "num_hidden_layers": file.integer("block_count"),
        "hidden_size": file.integer("embedding_length"),
        "intermediate_size": file.integer("feed_forward_length"),
        "vocab_size": _vocab_size(file),
        "num_attention_heads": num_heads,
        "max_position_embeddings": file.integer("context_length"),
        "hidden_act": "silu",
        "tie_word_embeddings": _HEAD not in file.tensors,
    }
    if not architecture.has_own_heads:
        config |= {
            "num_key_value_heads": file.integer("attention.head_count_kv", num_heads),
            "head_dim": file.head_dim,
        }
    # Before anything is made of them, layer by layer.
    refuse_absurd_sizes(config)
    if family.eps_key == "rms_norm_eps":
        config["rms_norm_eps"] = file.number("attention.layer_norm_rms_epsilon")
    config |= architecture.settings(file)
    return config if "rope_parameters" in config else config | _rope(file)


def _rope(file: GgufFile) -> dict[str, Any]:
    return {"rope_parameters": rope_parameters(file)}


def _check_heads(file: GgufFile, architecture: Architecture) -> None:
    head_dim = file.head_dim
    if architecture.turns_partly and 0 < rotary_dim(file) < head_dim:
        return
    sizes = {"": head_dim}
    if architecture.has_own_heads:
        sizes["_swa"] = file.integer("attention.key_length_swa", head_dim)
    for suffix, size in sizes.items():
        for name in (f"attention.value_length{suffix}", f"rope.dimension_count{suffix}"):
            if file.integer(name, size) != size:
                raise UnsupportedModelError(
                    f"{file.path}: {file.architecture}.{name} is {file.integer(name)}, expected "
                    f"that of keys, {size}; other models are not supported"
                )


def _check_window(file: GgufFile, architecture: Architecture) -> None:
    name = "attention.sliding_window"
    if name in architecture.known or file.get(name) is None:
        return
    if 0 < file.integer(name) < file.integer("context_length"):
        raise UnsupportedModelError(
            f"{file.path}: a sliding window is not supported in {file.architecture} files"
        )


def _vocab_size(file: GgufFile) -> int:
    """The embedding's rows; the list of tokens may be shorter."""
    if _EMBEDDING not in file.tensors:
        raise CheckpointError(f"{file.path} has no {_EMBEDDING}")
    return file.tensors[_EMBEDDING].shape[0]

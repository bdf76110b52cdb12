"""Why a type of model is not read, and what would help, in words for whoever has one."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

_LAYERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "layers with a state of their own (linear attention, convolutions, Mamba)": (
            *("linear_", "mamba_", "ssm_", "conv_kernel", "conv_L_cache", "state_size"),
            *("attention_hidden_size", "block_types"),
        ),
        "latent attention (MLA)": ("kv_lora_rank",),
        "embeddings in every layer": ("vocab_size_per_layer_input", "hidden_size_per_layer_input"),
        "experts of another kind": (
            *("num_experts", "num_local_experts", "n_routed_experts", "moe_"),
            *("expert_interval", "num_moe_experts"),
        ),
    }
)
"""What sets layers apart, by beginnings of the settings that tell of it, in order of weight."""

_OTHERWISE = "layers that no row of the table of families describes"
# Names of transformers' tables of models that write text one token after the other.
_WRITERS = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM")
_UNSPLIT = "transformers or vLLM may run it unsplit"


def unsupported(
    config: Mapping[str, Any], families: Collection[str], wrappers: Collection[str]
) -> str:
    """One line for a type that is in none of our tables: its name, the reason, what would help.

    `families` and `wrappers` are the types that are supported.
    """
    model_type = config.get("model_type")
    reason, hint = _reason(model_type, config, families)
    names = (*(name for name in families if not name.endswith("_text")), *wrappers)
    return (
        f"model type {model_type!r:.80} is not supported: {reason}; {hint}; supported: "
        f"{', '.join(names)}"
    )


def _reason(
    model_type: object, config: Mapping[str, Any], families: Collection[str]
) -> tuple[str, str]:
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    version = f"transformers {transformers.__version__}"
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING_NAMES:
        if config.get("auto_map"):
            return (
                f"its code lies beside its weights, which is never run, and {version} has none",
                "some such models are published for transformers as well (-hf)",
            )
        return f"{version} does not know it", "a newer transformers may, with a newer hat"
    tables = [getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES", {}) for name in _WRITERS]
    if not any(model_type in table for table in tables):
        return "it does not write text, token after token", "split a language model"
    text = config.get("text_config")
    text = text if isinstance(text, Mapping) else {}
    inner = text.get("model_type")
    if isinstance(inner, str) and inner in families:
        return (
            f"its language model is a {inner!r}, but not what is around it",
            "split that language model, where it is published by itself",
        )
    settings = {**config, **text}
    if settings.get("is_encoder_decoder"):
        return "it has an encoder and a decoder", "split a decoder"
    found = (what for what, beginnings in _LAYERS.items() if _tells(settings, beginnings))
    return f"it has {next(found, _OTHERWISE)}", _UNSPLIT


def _tells(settings: Mapping[str, Any], beginnings: tuple[str, ...]) -> bool:
    return any(
        key.startswith(beginnings) and value not in (None, False, 0, [])
        for key, value in settings.items()
    )

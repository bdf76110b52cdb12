"""config.json of the cloud bundle: the base model's, narrowed to the middle layers.

A vLLM plugin loads it as a model class of its own, `HatMiddle<Base>`, which takes hidden states
in and gives hidden states out.
"""

from collections.abc import Mapping
from typing import Any

from submodels.manifest import DtypeName, ModelShape
from submodels.plan.plan import SourceModel

# The class inherits an embedding and a head that are never used; they are kept this small.
UNUSED_VOCAB_SIZE = 64


def cloud_config(
    config: Mapping[str, Any], model: SourceModel, middle: range, dtype: DtypeName
) -> dict[str, Any]:
    """The configuration of the middle layers `middle` of a model.

    `hat_first_layer` is the number, in the names of the weights file beside it, of the first
    layer to load: 0 here, since a bundle's layers are renumbered. The same class can load a whole
    checkpoint with `hat_first_layer` set to the first middle layer.
    """
    dropped = ("auto_map", "_name_or_path", "quantization_config")
    kept = {key: value for key, value in config.items() if key not in dropped}
    kept = _plain_rope(kept, model)
    if model.family.layers_of:
        kept = _as_base(kept, model)
    if model.shape.described.layer_heads:
        kept = _with_heads(kept, model.shape, middle)
    narrowed = {
        **kept,
        "architectures": [f"HatMiddle{model.family.computed_as.architecture}"],
        "num_hidden_layers": len(middle),
        "hat_first_layer": 0,
        "hidden_act": model.shape.hidden_act,
        "vocab_size": UNUSED_VOCAB_SIZE,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    if model.layer_types is not None:
        layer_types = list(model.layer_types[middle.start : middle.stop])
        narrowed["layer_types"] = layer_types
        if "max_window_layers" in kept:
            narrowed["max_window_layers"] = layer_types.count("full_attention")
        if "use_sliding_window" in kept and "sliding_attention" not in layer_types:
            # vLLM goes by these two, not by the layers' types.
            narrowed |= {"use_sliding_window": False, "sliding_window": None}
    return narrowed


def _plain_rope(config: Mapping[str, Any], model: SourceModel) -> dict[str, Any]:
    """With the rotary embedding as the model is served.

    That is another one than the checkpoint's where frequencies would change with the length, and
    where there are further axes for pictures.
    """
    loaded: Mapping[str, Any] = model.family.load_config(config).rope_parameters
    if model.shape.described.layer_heads and model.family.rope_by_type:
        return {**config, "rope_parameters": dict(loaded)}
    served = {key: loaded[key] for key in model.rope_parameters if key in loaded}
    served |= {"rope_type": model.rope_parameters["rope_type"]}
    if served["rope_type"] == loaded.get("rope_type") and not model.family.layers_of:
        return dict(config)
    others = ("rope_scaling", "rope_theta", "rope_parameters")
    return {**{k: v for k, v in config.items() if k not in others}, "rope_parameters": served}


def _with_heads(config: Mapping[str, Any], shape: ModelShape, middle: range) -> dict[str, Any]:
    """With the heads of each layer under the number that it has here."""
    others = ("global_head_dim", "num_global_key_value_heads", "per_layer_config")
    return {
        **{key: value for key, value in config.items() if key not in others},
        "head_dim": shape.head_dim,
        "num_key_value_heads": shape.num_key_value_heads,
        "per_layer_config": {
            str(index): {
                "head_dim": shape.heads_of(layer).head_dim,
                "num_key_value_heads": shape.heads_of(layer).num_key_value_heads,
            }
            for index, layer in enumerate(middle)
            if shape.heads_of(layer) != shape.heads[0]
        },
    }


def _as_base(config: Mapping[str, Any], model: SourceModel) -> dict[str, Any]:
    """The settings under the names that the family whose layers these are has for them."""
    shape, base = model.shape, model.family.computed_as
    windows = {window for window in shape.sliding_windows if window is not None}
    settings: dict[str, Any] = {
        "model_type": base.model_type,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "rms_norm_eps": shape.rms_norm_eps,
        "hidden_act": shape.hidden_act,
        "max_position_embeddings": shape.max_context_tokens,
        "sliding_window": max(windows, default=None),
        "rope_parameters": config["rope_parameters"],
    }
    if base.model_type == "llama":
        # vLLM's Llama takes the one for projections in, the other for the one out of attention.
        settings |= {"qkv_bias": shape.qkv_bias, "attention_bias": shape.output_bias}
        settings["mlp_bias"] = shape.mlp_bias
    elif base.model_type == "qwen3":
        settings["attention_bias"] = shape.qkv_bias
    elif base.model_type == "gemma4_text":
        settings |= {
            "hidden_activation": shape.hidden_act,
            "attention_bias": shape.qkv_bias,
            "attention_k_eq_v": any(heads.keys_are_values for heads in shape.heads),
            "hidden_size_per_layer_input": 0,
            "final_logit_softcapping": shape.described.logit_softcap,
        }
    if base.windows == "by layer" and not shape.described.layer_heads:
        settings |= {"use_sliding_window": bool(windows), "max_window_layers": shape.num_layers}
    return settings

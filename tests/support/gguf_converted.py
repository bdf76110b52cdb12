"""What llama.cpp's converter makes of a checkpoint of each architecture: settings and tensors.

Written after its `conversion/`; names of tensors come from the gguf package's own table.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

REORDERED = ("llama", "mistral", "mistral3", "granite", "smollm3")
_GEMMA = ("gemma2", "gemma3")
_EXPERT = re.compile(
    r"(?P<begin>.*)\.(?P<mlp>mlp|block_sparse_moe)\.experts\.\d+\.(?P<kind>\w+)\.weight"
)
_ROUTER_SCALES = {
    "router.scale": "ffn_gate_inp.scale",
    "router.per_expert_scale": "ffn_down_exps.scale",
}
_STACKED = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def family_settings(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """What a file of an architecture says beside what all of them do."""
    ropes = config["rope_parameters"]
    full = ropes.get("full_attention", ropes)
    settings = {
        "rope.freq_base": float(full["rope_theta"]),
        **_rope_scaling(full),
        **_windows(config, architecture),
        **_experts(config),
    }
    if "sliding_attention" in ropes:
        settings["rope.freq_base_swa"] = float(ropes["sliding_attention"]["rope_theta"])
    for name, own_name in _RENAMED.get(architecture, {}).items():
        settings[own_name] = float(config[name])
    partial = full.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    settings["rope.dimension_count"] = int(head_dim * partial)
    if architecture == "phi3":
        original = config.get("original_max_position_embeddings", config["max_position_embeddings"])
        settings["rope.scaling.original_context_length"] = original
    if architecture == "gemma4":
        settings |= _gemma4_heads(config, head_dim)
    if "llama_4_scaling_beta" in full:
        settings["attention.temperature_scale"] = float(full["llama_4_scaling_beta"])
        settings["rope.scaling.yarn_log_multiplier"] = float(full["mscale_all_dim"])
    return settings


_RENAMED: Mapping[str, Mapping[str, str]] = {
    "granite": {
        "attention_multiplier": "attention.scale",
        "embedding_multiplier": "embedding_scale",
        "residual_multiplier": "residual_scale",
        "logits_scaling": "logit_scale",
    },
    "gemma2": {
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
    },
    "gemma4": {"final_logit_softcapping": "final_logit_softcapping"},
    "cohere2": {"logit_scale": "logit_scale", "layer_norm_eps": "attention.layer_norm_epsilon"},
}


def _gemma4_heads(config: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    is_sliding = [each == "sliding_attention" for each in config["layer_types"]]
    usual = {"head_dim": head_dim, "num_key_value_heads": config["num_key_value_heads"]}
    wide = {**usual, **next(iter(config["per_layer_config"].values()), {})}
    sizes = {"": wide["head_dim"], "_swa": head_dim}
    names = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    return {
        "attention.head_count_kv": [
            (usual if slides else wide)["num_key_value_heads"] for slides in is_sliding
        ],
        "embedding_length_per_layer_input": 0,
        "attention.shared_kv_layers": 0,
        **{f"{name}{suffix}": size for name in names for suffix, size in sizes.items()},
    }


def _rope_scaling(full: Mapping[str, Any]) -> dict[str, Any]:
    if full.get("rope_type") not in ("linear", "yarn"):
        return {}
    settings = {
        "rope.scaling.type": full["rope_type"],
        "rope.scaling.factor": float(full["factor"]),
    }
    if full["rope_type"] == "yarn":
        original = full["original_max_position_embeddings"]
        settings["rope.scaling.original_context_length"] = int(original)
        for name, own_name in (
            ("attention_factor", "yarn_attn_factor"),
            ("beta_fast", "yarn_beta_fast"),
            ("beta_slow", "yarn_beta_slow"),
        ):
            if full.get(name) is not None:
                settings[f"rope.scaling.{own_name}"] = float(full[name])
    return settings


def _windows(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    window, types = config.get("sliding_window"), config.get("layer_types")
    if architecture == "phi3":
        return {"attention.sliding_window": window or 0}
    if window is None or architecture not in (
        *_GEMMA,
        *("gemma4", "olmo2", "exaone4", "cohere2", "gpt-oss"),
    ):
        return {}
    settings: dict[str, Any] = {"attention.sliding_window": window}
    if architecture in ("gemma4", "olmo2", "exaone4"):
        pattern = [each == "sliding_attention" for each in types]
        settings["attention.sliding_window_pattern"] = pattern
    return settings


def _experts(config: Mapping[str, Any]) -> dict[str, Any]:
    count = config.get("num_local_experts", config.get("num_experts"))
    if count is None:
        return {}
    chosen = config.get("num_experts_per_tok", config.get("top_k_experts"))
    settings = {"expert_count": count, "expert_used_count": chosen}
    inner = config.get("moe_intermediate_size")
    if config["model_type"] == "gpt_oss":
        inner = config["intermediate_size"]
    return settings if inner is None else {**settings, "expert_feed_forward_length": inner}


def family_tensors(
    tensors: Mapping[str, Array], config: Mapping[str, Any], architecture: str
) -> dict[str, Array]:
    """The tensors by llama.cpp's names, as a file of an architecture has them."""
    known = {"mistral": gguf.MODEL_ARCH.LLAMA}
    arch = known.get(architecture) or next(
        key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture
    )
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    found = {}
    for name in [name for name in tensors if name.endswith(tuple(_ROUTER_SCALES))]:
        scale = next(own for own in _ROUTER_SCALES if name.endswith(own))
        found[f"blk.{name.split('.')[2]}.{_ROUTER_SCALES[scale]}"] = tensors[name]
    tensors = {name: array for name, array in tensors.items() if "scale" not in name}
    for name, array in (*_rope_factors(config), *_modified(_together(tensors), architecture)):
        base, suffix = name.rsplit(".", 1)
        heads = None
        if architecture in REORDERED and base.endswith(("q_proj", "k_proj")):
            is_query = base.endswith("q_proj")
            heads = config["num_attention_heads" if is_query else "num_key_value_heads"]
        own_name = names.get_name(base)
        assert own_name is not None, f"{architecture} has no {base}"
        found[f"{own_name}.{suffix}"] = interleaved(array, heads)
    return found


def _together(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Experts that lie one by one as one tensor."""
    together: dict[str, Array] = {}
    stacks: dict[str, list[Array]] = {}
    for name in sorted(tensors, key=_by_number):
        match = _EXPERT.fullmatch(name)
        if match is None:
            together[name] = tensors[name]
        else:
            kind = _STACKED.get(match["kind"], match["kind"])
            whole = f"{match['begin']}.mlp.experts.{kind}.weight"
            stacks.setdefault(whole, []).append(tensors[name])
    return together | {name: np.stack(arrays) for name, arrays in stacks.items()}


def _by_number(name: str) -> list[str]:
    return [part.zfill(4) if part.isdecimal() else part for part in name.split(".")]


def _modified(tensors: Mapping[str, Array], architecture: str) -> Iterator[tuple[str, Array]]:
    for name, array in tensors.items():
        if architecture in _GEMMA and name == "lm_head.weight":
            continue
        if architecture in _GEMMA and name.endswith("norm.weight"):
            yield name, array + np.float32(1)
        elif name.endswith("layer_scalar") or (".experts." in name and architecture == "gemma4"):
            yield f"{name}.weight", array
        elif architecture != "gpt-oss":
            yield name, array
        elif name.endswith("sinks"):
            yield f"{name}.weight", array
        elif match := re.fullmatch(r"(.*experts)\.(gate_up|down)_proj(_bias)?", name):
            suffix = "bias" if match[3] else "weight"
            turned = array if match[3] else array.swapaxes(-1, -2)
            if match[2] == "down":
                yield f"{match[1]}.down_proj.{suffix}", turned
            else:
                yield f"{match[1]}.gate_proj.{suffix}", turned[:, ::2]
                yield f"{match[1]}.up_proj.{suffix}", turned[:, 1::2]
        else:
            yield name, array


def _rope_factors(config: Mapping[str, Any]) -> Iterator[tuple[str, Array]]:
    parameters = config["rope_parameters"]
    if parameters.get("rope_type") == "longrope":
        for name in ("long", "short"):
            yield f"rope_factors_{name}.weight", np.array(parameters[f"{name}_factor"], np.float32)
    full = parameters.get("full_attention", {})
    if full.get("rope_type") == "proportional":
        size = next(iter(config["per_layer_config"].values()))["head_dim"]
        turned = int(size * full["partial_rotary_factor"] / 2)
        factors = [1.0] * turned + [1e30] * (size // 2 - turned)
        yield "rope_freqs.weight", np.array(factors, np.float32)
    if parameters.get("rope_type") == "llama3":
        head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        yield "rope_freqs.weight", llama3_factors(parameters, head_dim)


def llama3_factors(scaling: Mapping[str, Any], head_dim: int) -> Array:
    """By what llama.cpp's converter divides each frequency."""
    factors = []
    for index in range(head_dim // 2):
        wavelength = 2 * np.pi * scaling["rope_theta"] ** (2 * index / head_dim)
        context = scaling["original_max_position_embeddings"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(scaling["factor"])
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(factors, np.float32)


def interleaved(array: Array, num_heads: int | None) -> Array:
    """The two halves of each head, row by row in turn; None: as it is."""
    if num_heads is None:
        return array
    halves = array.reshape(num_heads, 2, -1, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)

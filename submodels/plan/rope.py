"""Rotary embeddings of a configuration as plain numbers, as transformers computes them."""

import importlib
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from submodels.errors import UnsupportedModelError
from submodels.manifest import Rope
from submodels.plan.families import Config, Family

_USED_KEYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "default": ("rope_theta",),
        "linear": ("rope_theta", "factor"),
        "llama3": (
            "rope_theta",
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        ),
        "yarn": (
            "rope_theta",
            "factor",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "original_max_position_embeddings",
            "truncate",
        ),
    }
)
"""Supported rope types and the parameters that change their numbers. The types left out change
their frequencies with the length of the sequence, so cached keys would no longer hold."""


_WITHIN_THE_CONTEXT: Mapping[str, str] = MappingProxyType({"dynamic": "default"})
"""Rope types that are another one up to `max_position_embeddings`, which is where we end."""


def rope_parameters(config: Config) -> dict[str, float | str]:
    """The parameters that decide the rotary numbers, by name, whatever style they came in.

    Raises:
        UnsupportedModelError: a rope type, or a way to apply it, that is refused by name.
    """
    parameters = config.rope_parameters or {}
    rope_type = parameters.get("rope_type", "default")
    if any(isinstance(value, Mapping) for value in parameters.values()):
        raise UnsupportedModelError("rope parameters per layer type are not supported")
    rope_type = _WITHIN_THE_CONTEXT.get(rope_type, rope_type)
    if rope_type not in _USED_KEYS:
        raise UnsupportedModelError(
            f"rope type {rope_type!r} is not supported; supported: {', '.join(_USED_KEYS)}"
        )
    factor = parameters.get("partial_rotary_factor")
    partial = getattr(config, "partial_rotary_factor", None) if factor is None else factor
    if partial not in (None, 1.0):
        raise UnsupportedModelError(
            f"partial rotary embedding is not supported: partial_rotary_factor is {partial}"
        )
    used = {key: parameters.get(key) for key in _USED_KEYS[rope_type]}
    for key, value in used.items():
        if isinstance(value, str):
            raise UnsupportedModelError(f"config.json: {key}: expected a number, got {value!r:.40}")
    try:
        numbers = {key: float(value) for key, value in used.items() if value is not None}
    except (TypeError, ValueError) as error:
        raise UnsupportedModelError(f"rope parameters are not numbers: {used}") from error
    if not all(map(math.isfinite, numbers.values())):
        raise UnsupportedModelError(f"rope parameters are not finite: {used}")
    return {"rope_type": rope_type, **numbers}


def compute_rope(family: Family, config: Config) -> Rope:
    """Frequencies and scaling, by the rotary module of the family whose layers these are.

    Raises:
        UnsupportedModelError: transformers refuses the parameters.
    """
    code = family.computed_as
    package = f"transformers.models.{code.model_type}.modeling_{code.model_type}"
    rotary_class: Any = getattr(importlib.import_module(package), f"{code.name}RotaryEmbedding")
    try:
        rotary = rotary_class(config=config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UnsupportedModelError(
            f"rope parameters are not valid: {config.rope_parameters} ({error!r})"
        ) from error
    return Rope(
        inv_freq=tuple(float(x) for x in rotary.inv_freq),
        attention_scaling=float(rotary.attention_scaling),
    )


def context_tokens(config: Config) -> int:
    """How many positions the model is meant for.

    With yarn, `max_position_embeddings` may still say the length before stretching (Qwen2.5's
    model card does) or already the length after it; the larger is meant.
    """
    parameters = config.rope_parameters or {}
    num_tokens = int(config.max_position_embeddings)
    if parameters.get("llama_4_scaling_beta"):
        # Ministral 3 scales queries behind these positions, and by 1 before.
        return min(num_tokens, int(parameters["original_max_position_embeddings"]))
    if parameters.get("rope_type") == "dynamic":
        # Behind them the frequencies change with the length, before they are the plain ones.
        return num_tokens
    if parameters.get("rope_type") == "yarn" and parameters.get("factor"):
        original = parameters["original_max_position_embeddings"]
        num_tokens = max(num_tokens, int(original * parameters["factor"]))
    return num_tokens

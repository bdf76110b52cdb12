"""What must hold of every model, whether it comes from a checkpoint or from a bundle."""

import math
from collections.abc import Mapping

from submodels.manifest import ModelShape, Rope

# Generous bounds, so that a corrupt or hostile file cannot ask for absurd memory. The largest
# dense models known have 126 layers, 16384 hidden, 53248 inner, 262144 vocabulary.
_LIMITS: Mapping[str, int] = {
    "num_layers": 4096,
    "hidden_size": 1 << 18,
    "intermediate_size": 1 << 20,
    "vocab_size": 1 << 23,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 1 << 12,
    "max_context_tokens": 1 << 27,
}

_ROPE_TOLERANCE = 1e-4
"""Far above what another order of float32 operations does to a frequency."""


def check_shape(shape: ModelShape) -> None:
    """Refuse a shape that no model can have.

    Raises:
        ValueError: names the field, what was expected and what came.
    """
    for name in _LIMITS:
        check_size(name, getattr(shape, name))
    if shape.num_attention_heads % shape.num_key_value_heads:
        raise ValueError(
            f"expected attention heads to be a multiple of key-value heads, got "
            f"{shape.num_attention_heads} and {shape.num_key_value_heads}"
        )
    if shape.head_dim != 2 * len(shape.rope.inv_freq):
        raise ValueError(
            f"rope: expected head_dim / 2 = {shape.head_dim / 2:g} frequencies, "
            f"got {len(shape.rope.inv_freq)}"
        )
    if not all(math.isfinite(x) for x in (*shape.rope.inv_freq, shape.rope.attention_scaling)):
        raise ValueError("rope: expected finite numbers")
    if not (math.isfinite(shape.rms_norm_eps) and shape.rms_norm_eps >= 0):
        raise ValueError(f"rms_norm_eps: expected a finite number >= 0, got {shape.rms_norm_eps}")
    _check_windows(shape)


def check_size(name: str, value: object) -> None:
    """Refuse an absurd value for one of the sizes of a `ModelShape`, named as there.

    Raises:
        ValueError: not a whole number within the bounds of that size.
    """
    limit = _LIMITS[name]
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
        raise ValueError(f"{name}: expected a whole number from 1 to {limit}, got {value!r}")


def check_split(num_layers: int, num_input_layers: int, num_output_layers: int) -> None:
    """Refuse a split that leaves no middle layer.

    Raises:
        ValueError: a negative count, or nothing left for the cloud.
    """
    if num_input_layers < 0 or num_output_layers < 0:
        raise ValueError(
            f"expected 0 or more input and output layers, got {num_input_layers} and "
            f"{num_output_layers}"
        )
    if num_input_layers + num_output_layers >= num_layers:
        raise ValueError(
            f"expected at least one middle layer: {num_input_layers} input and "
            f"{num_output_layers} output layers leave none of {num_layers}"
        )


def _check_windows(shape: ModelShape) -> None:
    if len(shape.sliding_windows) != shape.num_layers:
        raise ValueError(
            f"expected {shape.num_layers} sliding windows, got {len(shape.sliding_windows)}"
        )
    for window in shape.sliding_windows:
        if window is not None and window < 1:
            raise ValueError(f"sliding window: expected at least 1 key, got {window}")


def check_rope(rope: Rope, parameters: Mapping[str, float | str], head_dim: int) -> None:
    """Frequencies between the unscaled ones and those divided by the factor.

    Plain and linear scaling are at one end for every dimension; llama3 and yarn go from one end to
    the other. The fingerprint covers the parameters, this the numbers that were made of them.

    Raises:
        ValueError: a frequency, or the factor on cos and sin, that the parameters cannot give.
    """
    kind = parameters.get("rope_type")
    theta, factor = parameters.get("rope_theta"), parameters.get("factor", 1.0)
    if not isinstance(theta, float) or not isinstance(factor, float) or not theta * factor > 0:
        raise ValueError(f"rope_parameters: expected a rope_theta and factor, got {parameters}")
    for index, came in enumerate(rope.inv_freq):
        plain = theta ** (-2 * index / head_dim)
        ends = (plain / factor, plain)
        if kind in ("default", "linear"):
            ends = (ends[0], ends[0])
        if not min(ends) * (1 - _ROPE_TOLERANCE) <= came <= max(ends) * (1 + _ROPE_TOLERANCE):
            raise ValueError(f"rope: frequency {index} is {came}, expected {ends[0]} to {ends[1]}")
    if kind != "yarn" and rope.attention_scaling != 1.0:
        raise ValueError(f"rope: expected no attention_scaling, got {rope.attention_scaling}")

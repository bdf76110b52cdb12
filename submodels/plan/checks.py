"""What must hold of every model, whether it comes from a checkpoint or from a bundle."""

import math
import re
from collections.abc import Mapping

from submodels.manifest import Experts, ModelShape, Rope

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
    "num_experts": 4096,
}

_ROPE_TOLERANCE = 1e-4
"""Far above what another order of float32 operations does to a frequency."""


def check_shape(shape: ModelShape) -> None:
    """Refuse a shape that no model can have.

    Raises:
        ValueError: names the field, what was expected and what came.
    """
    for name in _LIMITS:
        if name != "num_experts":
            check_size(name, getattr(shape, name))
    _check_heads(shape)
    _check_description(shape)
    for rope, head_dim in zip(shape.ropes, rope_head_dims(shape), strict=True):
        _check_rope_numbers(shape, rope, head_dim)
    if not (math.isfinite(shape.rms_norm_eps) and shape.rms_norm_eps >= 0):
        raise ValueError(f"rms_norm_eps: expected a finite number >= 0, got {shape.rms_norm_eps}")
    _check_windows(shape)


def _check_rope_numbers(shape: ModelShape, rope: Rope, head_dim: int) -> None:
    rotary_dim = shape.described.rotary_dim
    expected, size = (
        (f"head_dim / 2 = {head_dim / 2:g}", head_dim)
        if rotary_dim is None
        else (f"rotary_dim / 2 = {rotary_dim / 2:g}", rotary_dim)
    )
    is_none = rope is not shape.rope and not rope.inv_freq
    if size != 2 * len(rope.inv_freq) and not is_none:
        raise ValueError(f"rope: expected {expected} frequencies, got {len(rope.inv_freq)}")
    if not all(math.isfinite(x) for x in (*rope.inv_freq, rope.attention_scaling)):
        raise ValueError("rope: expected finite numbers")


def rope_head_dims(shape: ModelShape) -> list[int]:
    """For each of the model's rotary embeddings, how large the heads are that it turns.

    Raises:
        ValueError: it turns heads of several sizes.
    """
    found: list[set[int]] = [set() for _ in shape.ropes]
    for layer in range(shape.num_layers):
        found[shape.rope_index(layer)].add(shape.heads_of(layer).head_dim)
    for index, (sizes, rope) in enumerate(zip(found, shape.ropes, strict=True)):
        if len(sizes) > 1 and rope.inv_freq:
            raise ValueError(f"rope {index}: expected heads of one size, got {sorted(sizes)}")
    return [min(sizes, default=shape.head_dim) for sizes in found]


def _check_heads(shape: ModelShape) -> None:
    described, num_kinds = shape.described, len(shape.heads)
    layer_heads = described.layer_heads
    if layer_heads and len(layer_heads) != shape.num_layers:
        raise ValueError(f"expected {shape.num_layers} layer_heads, got {len(layer_heads)}")
    if num_kinds > shape.num_layers:
        raise ValueError(f"expected at most {shape.num_layers} kinds of heads, got {num_kinds}")
    if not all(0 <= index < num_kinds for index in layer_heads):
        raise ValueError(f"layer_heads: expected 0 to {num_kinds - 1}, got {layer_heads}")
    for heads in shape.heads:
        check_size("head_dim", heads.head_dim)
        check_size("num_key_value_heads", heads.num_key_value_heads)
        if shape.num_attention_heads % heads.num_key_value_heads:
            raise ValueError(
                f"expected attention heads to be a multiple of key-value heads, got "
                f"{shape.num_attention_heads} and {heads.num_key_value_heads}"
            )
    # The order of a head's numbers is changed for keys, and would be for values.
    if any(each.keys_are_values for each in shape.heads) and (
        described.is_interleaved or described.rotary_dim is not None
    ):
        raise ValueError("keys_are_values: expected heads that turn whole, in halves")
    if num_kinds > 1 and (described.rotary_dim is not None or described.qk_norm_over == "width"):
        raise ValueError("other_heads: expected heads that turn whole, and are normed one by one")


_NAME = re.compile(r"[a-z_0-9.]{1,80}")


def _check_description(shape: ModelShape) -> None:
    described = shape.described
    layer_ropes, num_ropes = described.layer_ropes, len(shape.ropes)
    if layer_ropes and len(layer_ropes) != shape.num_layers:
        raise ValueError(f"expected {shape.num_layers} layer_ropes, got {len(layer_ropes)}")
    if not all(0 <= index < num_ropes for index in layer_ropes):
        raise ValueError(f"layer_ropes: expected 0 to {num_ropes - 1}, got {layer_ropes}")
    rotary_dim = described.rotary_dim
    if rotary_dim is not None and not (
        0 < rotary_dim < shape.head_dim and rotary_dim % 2 == shape.head_dim % 2 == 0
    ):
        raise ValueError(
            f"rotary_dim: expected an even number below an even head_dim, got {rotary_dim} of "
            f"{shape.head_dim}"
        )
    for name in ("attention_scale", "attention_softcap", "logit_softcap", "logit_scale"):
        _check_factor(name, getattr(described, name))
    for name in ("embedding_scale", "residual_scale"):
        _check_factor(name, getattr(described, name))
    if not (math.isfinite(described.norm_offset)):
        raise ValueError(f"norm_offset: expected a finite number, got {described.norm_offset}")
    _check_names(shape)


def _check_factor(name: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: expected a finite number above 0, got {value}")


def _check_names(shape: ModelShape) -> None:
    described, experts = shape.described, shape.described.experts
    names = [
        *(described.before_attention, described.after_attention),
        *(described.before_mlp, described.after_mlp),
    ]
    names = [name for name in names if name]
    if len(set(names)) != len(names):
        raise ValueError(f"norms: expected different names, got {names}")
    if experts is not None:
        check_size("num_experts", experts.num_experts)
        check_size("intermediate_size", experts.inner_size)
        if not 1 <= experts.num_chosen <= experts.num_experts:
            raise ValueError(
                f"experts: expected 1 to {experts.num_experts} chosen, got {experts.num_chosen}"
            )
        _check_factor("swiglu_limit", experts.swiglu_limit)
        _check_factor("swiglu_alpha", experts.swiglu_alpha)
        numbered = [experts.gate, experts.up, experts.down]
        names += _beside_names(experts)
        if experts.are_stacked:
            names += [experts.gate, experts.down]
            numbered = []
        elif any(name.count("{}") != 1 for name in numbered) or len(set(numbered)) != 3:
            raise ValueError(f"experts: expected three different names with {{}}, got {numbered}")
        names += [experts.router, *(name.replace("{}", "0") for name in numbered)]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"expected the name of a tensor, got {name!r}")


def _beside_names(experts: Experts) -> list[str]:
    """What experts beside a gated half have more; none where they are the half."""
    names = [experts.before, experts.after, experts.after_gated]
    names += [experts.router_scale, experts.expert_scale]
    if not any(names) and not experts.has_halves:
        return []
    if not all(names) or len(set(names)) != len(names):
        raise ValueError(f"experts beside a gated half: expected different names, got {names}")
    if not (experts.are_stacked and experts.has_halves and experts.swiglu_limit is None):
        raise ValueError("experts beside a gated half: expected stacked ones, in halves, unclamped")
    return names


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


def default_input_layers(num_layers: int) -> int:
    """Input layers for a model of `num_layers`: 1 up to 8, 2 up to 36, 3 beyond.

    Source: the paper keeps 2 of 32 and 3 of 40 layers on the device (arXiv:2503.18989);
    for smaller models one layer leaves most of the work to the cloud.
    """
    wanted = 1 if num_layers <= 8 else 2 if num_layers <= 36 else 3
    return min(wanted, max(num_layers - 1, 0))


def _check_windows(shape: ModelShape) -> None:
    if len(shape.sliding_windows) != shape.num_layers:
        raise ValueError(
            f"expected {shape.num_layers} sliding windows, got {len(shape.sliding_windows)}"
        )
    for window in shape.sliding_windows:
        if window is not None and window < 1:
            raise ValueError(f"sliding window: expected at least 1 key, got {window}")


NONE = "none"
"""The rope type of layers that do not turn; it has no further parameters."""

PROPORTIONAL = "proportional"
"""The rope type whose last frequencies are zero: heads turn in part, but pair up as if they turned
whole."""

LONG = "longrope"
"""The rope type that divides each frequency by a number of its own."""


def other_prefix(index: int) -> str:
    """Before the names of the parameters of a model's `index`-th rotary embedding but the first."""
    return f"other_{index}."


def check_ropes(shape: ModelShape, parameters: Mapping[str, float | str]) -> None:
    """`check_rope` for every rotary embedding of a model, whose parameters are in one table.

    Raises:
        ValueError: as there, or parameters that belong to none.
    """
    rotary_dims = [shape.described.rotary_dim or size for size in rope_head_dims(shape)]
    left = dict(parameters)
    for index, rope in reversed(list(enumerate(shape.ropes))):
        prefix = other_prefix(index) if index else ""
        own = {name: left.pop(name) for name in list(left) if name.startswith(prefix)}
        own = {name.removeprefix(prefix): value for name, value in own.items()}
        if own.get("rope_type") == NONE:
            if rope.inv_freq or len(own) != 1:
                raise ValueError(f"rope {index}: expected no frequencies, got {own}")
        else:
            check_rope(rope, own, rotary_dims[index])


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
    if kind == LONG:
        _check_long(rope, parameters, theta, head_dim)
        return
    num_turned = len(rope.inv_freq)
    if kind == PROPORTIONAL:
        num_turned = _num_proportional(parameters, head_dim)
    for index, came in enumerate(rope.inv_freq):
        plain = theta ** (-2 * index / head_dim) if index < num_turned else 0.0
        ends = (plain / factor, plain)
        if kind in ("default", "linear", PROPORTIONAL):
            ends = (ends[0], ends[0])
        if not min(ends) * (1 - _ROPE_TOLERANCE) <= came <= max(ends) * (1 + _ROPE_TOLERANCE):
            raise ValueError(f"rope: frequency {index} is {came}, expected {ends[0]} to {ends[1]}")
    if kind != "yarn" and rope.attention_scaling != 1.0:
        raise ValueError(f"rope: expected no attention_scaling, got {rope.attention_scaling}")


def _num_proportional(parameters: Mapping[str, float | str], head_dim: int) -> int:
    """How many pairs of a head turn."""
    share = parameters.get("partial_rotary_factor", 1.0)
    if not isinstance(share, float) or not 0 <= share <= 1:
        raise ValueError(f"rope: expected a partial_rotary_factor from 0 to 1, got {share}")
    return int(share * head_dim // 2)


def _check_long(
    rope: Rope, parameters: Mapping[str, float | str], theta: float, head_dim: int
) -> None:
    """As `check_rope`, for LongRoPE, whose parameters give its numbers without a choice."""
    for index, came in enumerate(rope.inv_freq):
        found = [parameters.get(f"{name}_factor.{index}") for name in ("short", "long")]
        divisors = [each for each in found if isinstance(each, float) and each > 0]
        if len(divisors) != 1:
            raise ValueError(f"rope: expected a divisor of frequency {index}, got {found}")
        expected = theta ** (-2 * index / head_dim) / divisors[0]
        if not math.isclose(came, expected, rel_tol=_ROPE_TOLERANCE):
            raise ValueError(f"rope: frequency {index} is {came}, expected {expected}")
    scaling = parameters.get("attention_factor")
    factor, original = parameters.get("factor"), parameters.get("original_max_position_embeddings")
    if scaling is None and isinstance(original, float) and isinstance(factor, float):
        is_stretched = factor > 1 and original > 1
        scaling = math.sqrt(1 + math.log(factor) / math.log(original)) if is_stretched else 1.0
    if not isinstance(scaling, float) or not math.isclose(
        rope.attention_scaling, scaling, rel_tol=_ROPE_TOLERANCE
    ):
        raise ValueError(f"rope: attention_scaling is {rope.attention_scaling}, expected {scaling}")

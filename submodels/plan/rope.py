"""Rotary embeddings of a configuration as plain numbers, as transformers computes them."""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from submodels.errors import UnsupportedModelError
from submodels.manifest import Rope
from submodels.plan.checks import LONG, NONE, PROPORTIONAL, other_prefix
from submodels.plan.described import Config
from submodels.plan.families import Family

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
        PROPORTIONAL: ("rope_theta", "factor", "partial_rotary_factor"),
        LONG: (
            "rope_theta",
            "factor",
            "attention_factor",
            "original_max_position_embeddings",
        ),
    }
)
"""Supported rope types and the parameters that change their numbers. The types left out change
their frequencies with the length of the sequence, so cached keys would no longer hold."""


_WITHIN_THE_CONTEXT: Mapping[str, str] = MappingProxyType({"dynamic": "default"})
"""Rope types that are another one up to `max_position_embeddings`, which is where we end."""


_LONG_FACTORS, _SHORT_FACTORS = "long_factor", "short_factor"

_FULL = "full_attention"
_STILL = "none"
"""Stands for the type of layers that do not turn."""

_NO_ROPE: Mapping[str, float | str] = MappingProxyType({"rope_type": NONE})


@dataclass(frozen=True, slots=True)
class Ropes:
    """The rotary embeddings of a model, the first of them `ModelShape.rope`.

    `layers` says per layer which one it is; empty where it is always the first. `parameters` are
    what all of them were computed from, those of the i-th named behind `other_prefix(i)`.
    """

    first: Rope
    others: tuple[Rope, ...]
    layers: tuple[int, ...]
    rotary_dim: int | None
    parameters: Mapping[str, float | str]


def is_long(config: Config) -> bool:
    """Whether texts beyond the original length turn by other frequencies than those within."""
    parameters = config.rope_parameters or {}
    return bool(parameters.get("rope_type") == LONG and _original(config) < _most_tokens(config))


def _most_tokens(config: Config) -> int:
    return int(config.max_position_embeddings)


def _original(config: Config) -> int:
    original = int(config.rope_parameters["original_max_position_embeddings"])
    if original < 1:
        raise UnsupportedModelError(
            f"original_max_position_embeddings: expected 1 or more, got {original}"
        )
    return original


def read_ropes(
    family: Family, config: Config, head_dims: Sequence[int], long_context: bool = False
) -> Ropes:
    """What each layer, with heads of these sizes, turns by: by the family's own rotary module.

    A rotary embedding that `is_long` has two sets of frequencies; `long_context` takes those of
    texts beyond the original length, else the context ends there.

    Raises:
        UnsupportedModelError: a rope type, or a way to apply it, that is refused by name.
    """
    kinds = _kinds(family, config)
    long_context = long_context and is_long(config)
    named = {
        kind: _parameters(family, config, kind, long_context)
        for kind in dict.fromkeys(kinds)
        if kind != _STILL
    }
    if not named:
        named[_FULL] = _parameters(family, config, _FULL, long_context)
    # Layer types whose parameters and heads are the same turn by the same.
    sizes = dict(zip(reversed(kinds), reversed(head_dims), strict=True))
    keys = {kind: (found, sizes.get(kind)) for kind, found in named.items()}
    distinct = [next(iter(keys.values()))]
    distinct += [found for found in keys.values() if found not in distinct]
    places = {kind: distinct.index(found) for kind, found in keys.items()}
    ropes = [found for found, _ in distinct]
    computed = [compute_rope(family, config, kind, long_context) for kind in _firsts(places)]
    if _STILL in kinds:
        places[_STILL] = len(ropes)
        ropes.append(dict(_NO_ROPE))
        computed.append(Rope(inv_freq=()))
    layers = tuple(places[kind] for kind in kinds)
    parameters = {
        f"{other_prefix(index) if index else ''}{name}": value
        for index, found in enumerate(ropes)
        for name, value in found.items()
    }
    return Ropes(
        first=computed[0],
        others=tuple(computed[1:]),
        layers=layers if any(layers) else (),
        rotary_dim=_rotary_dim(computed[0], head_dims[0]),
        parameters=parameters,
    )


def _kinds(family: Family, config: Config) -> list[str]:
    """Per layer the layer type whose rotary parameters it has, or `_STILL`."""
    layers = range(config.num_hidden_layers)
    types = config.layer_types if family.rope_by_type else [_FULL] * len(layers)
    return [types[layer] if family.turns(config, layer) else _STILL for layer in layers]


def _firsts(places: Mapping[str, int]) -> list[str]:
    """A layer type for each place, in order."""
    firsts: dict[int, str] = {}
    for kind, place in places.items():
        firsts.setdefault(place, kind)
    return [firsts[place] for place in sorted(firsts)]


def _rotary_dim(rope: Rope, head_dim: int) -> int | None:
    rotary_dim = 2 * len(rope.inv_freq)
    return None if rotary_dim == head_dim else rotary_dim


def _parameters(
    family: Family, config: Config, kind: str, long_context: bool
) -> dict[str, float | str]:
    parameters = config.rope_parameters or {}
    if family.rope_by_type:
        parameters = parameters.get(kind) or {}
    if parameters.get("rope_type") == LONG and not family.may_be_long:
        raise UnsupportedModelError(f"rope type {LONG!r} is not supported in {family.model_type}")
    read = rope_parameters(parameters, config, family.is_partial)
    return read | _long_parameters(config, long_context) if read["rope_type"] == LONG else read


def _long_parameters(config: Config, long_context: bool) -> dict[str, float | str]:
    """Of LongRoPE: one divisor for each frequency, and what the factor is where none is given."""
    parameters, name = config.rope_parameters, _LONG_FACTORS if long_context else _SHORT_FACTORS
    divisors = parameters.get(name)
    if not isinstance(divisors, list):
        raise UnsupportedModelError(f"rope type {LONG!r}: expected a list {name}, got {divisors!r}")
    factor = parameters.get("factor") or _most_tokens(config) / _original(config)
    try:
        numbers = {f"{name}.{index}": float(each) for index, each in enumerate(divisors)}
        return {"factor": float(factor), **numbers}
    except (TypeError, ValueError) as error:
        raise UnsupportedModelError(f"{name}: expected numbers, got {divisors!r:.80}") from error


def rope_parameters(
    parameters: Mapping[str, Any], config: Config, may_be_partial: bool
) -> dict[str, float | str]:
    """The parameters that decide the rotary numbers, by name, whatever style they came in.

    Raises:
        UnsupportedModelError: a rope type, or a way to apply it, that is refused by name.
    """
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
    is_partial = partial not in (None, 1.0) and rope_type != PROPORTIONAL
    if is_partial and not may_be_partial:
        raise UnsupportedModelError(
            f"partial rotary embedding is not supported: partial_rotary_factor is {partial}"
        )
    used = {key: parameters.get(key) for key in _USED_KEYS[rope_type]}
    for key, value in used.items():
        if isinstance(value, str):
            raise UnsupportedModelError(f"config.json: {key}: expected a number, got {value!r:.40}")
    if is_partial:
        used["partial_rotary_factor"] = partial
    try:
        numbers = {key: float(value) for key, value in used.items() if value is not None}
    except (TypeError, ValueError) as error:
        raise UnsupportedModelError(f"rope parameters are not numbers: {used}") from error
    if not all(map(math.isfinite, numbers.values())):
        raise UnsupportedModelError(f"rope parameters are not finite: {used}")
    return {"rope_type": rope_type, **numbers}


def compute_rope(family: Family, config: Config, kind: str, long_context: bool = False) -> Rope:
    """Frequencies and scaling of a layer type, by the rotary module of the family it is of.

    With `long_context` those of texts beyond the original length.

    Raises:
        UnsupportedModelError: transformers refuses the parameters.
    """
    code = family.computed_as
    module, name = importlib.import_module(code.module), code.rotary_name or code.name
    rotary_class: Any = getattr(module, f"{name}RotaryEmbedding")
    before = f"{kind}_" if family.rope_by_type else ""
    try:
        rotary = rotary_class(config=config)
        frequencies = getattr(rotary, f"{before}inv_freq")
        if long_context:
            from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

            frequencies, _ = ROPE_INIT_FUNCTIONS[LONG](config, None, seq_len=_original(config) + 1)
        return Rope(
            inv_freq=tuple(float(x) for x in frequencies),
            attention_scaling=float(getattr(rotary, f"{before}attention_scaling")),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UnsupportedModelError(
            f"rope parameters are not valid: {config.rope_parameters} ({error!r})"
        ) from error


def context_tokens(config: Config, long_context: bool = False) -> int:
    """How many positions the model is meant for; of LongRoPE without `long_context`, those that
    turn by its first frequencies.

    With yarn, `max_position_embeddings` may still say the length before stretching (Qwen2.5's
    model card does) or already the length after it; the larger is meant.
    """
    parameters = config.rope_parameters or {}
    if any(isinstance(value, Mapping) for value in parameters.values()):
        parameters = parameters.get(_FULL) or {}
    num_tokens = int(config.max_position_embeddings)
    if parameters.get("rope_type") == LONG and not long_context:
        return min(num_tokens, _original(config))
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

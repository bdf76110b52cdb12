"""From a Hugging Face config.json to the model's shape, or a refusal by name.

The configuration is read through transformers' own classes, so that absent keys, old keys and
defaults mean here what they mean there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from submodels.errors import UnsupportedModelError
from submodels.manifest import LLAMA, Description, Heads, ModelShape
from submodels.plan.checks import check_shape, check_size
from submodels.plan.described import Config
from submodels.plan.families import Family, family_of
from submodels.plan.rope import Ropes, context_tokens, is_long, read_ropes

SUPPORTED_ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
_OTHER_NAMES = {"swish": "silu"}
"""Names of transformers for one and the same function."""

_SIZE_KEYS: Mapping[str, str] = {
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "vocab_size": "vocab_size",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "max_position_embeddings": "max_context_tokens",
}


@dataclass(frozen=True, slots=True)
class SourceModel:
    """What a config.json says: the shape, and the parameters its rotary numbers came from.

    `shape.tied_embeddings` is the configuration's word; the tensors on disk have the last one.
    `layer_types` is None in families that do not know them.
    """

    family: Family
    shape: ModelShape
    rope_parameters: Mapping[str, float | str]
    layer_types: tuple[str, ...] | None


def read_model(config: Mapping[str, Any], long_context: bool = False) -> SourceModel:
    """The model that a config.json describes, whatever has quantised its tensors.

    `long_context` serves a model with LongRoPE for texts beyond its original length.

    Raises:
        UnsupportedModelError: a family, activation, rope type or mask that cannot be computed
            right, named in the message; or impossible sizes.
    """
    family = family_of(config)
    refuse_absurd_sizes(config)
    loaded = family.load_config(config)
    activation = _activation(family, loaded)
    if activation not in SUPPORTED_ACTIVATIONS:
        raise UnsupportedModelError(
            f"activation {activation!r} is not supported; "
            f"supported: {', '.join(SUPPORTED_ACTIVATIONS)}"
        )
    if long_context and not is_long(loaded):
        raise UnsupportedModelError("--long-context: the model has no LongRoPE to choose from")
    # First, since it refuses what the rest would not understand.
    description = family.describe(loaded)
    heads = [family.heads(loaded, layer) for layer in range(loaded.num_hidden_layers)]
    ropes = read_ropes(family, loaded, [each.head_dim for each in heads], long_context)
    num_tokens = context_tokens(loaded, long_context)
    shape = _shape(family, loaded, _with(description, ropes, heads), ropes, num_tokens)
    try:
        check_shape(shape)
    except ValueError as error:
        raise UnsupportedModelError(f"config.json: {error}") from error
    return SourceModel(family, shape, ropes.parameters, _layer_types(loaded))


def _activation(family: Family, config: Config) -> str:
    name: str = getattr(config, family.activation_key)
    return _OTHER_NAMES.get(name, name)


def refuse_absurd_sizes(config: Mapping[str, Any]) -> None:
    """Look at sizes before any library allocates by them; absent ones have sane defaults.

    Raises:
        UnsupportedModelError: one that no model has.
    """
    for key, name in _SIZE_KEYS.items():
        if config.get(key) is not None:
            try:
                check_size(name, config[key])
            except ValueError as error:
                raise UnsupportedModelError(f"config.json: {error}") from error


def _with(description: Description, ropes: Ropes, heads: Sequence[Heads]) -> Description:
    """A family's description with what its rotary embeddings and heads are, layer by layer."""
    kinds = list(dict.fromkeys(heads))
    return msgspec.structs.replace(
        description,
        other_ropes=ropes.others,
        layer_ropes=ropes.layers,
        rotary_dim=ropes.rotary_dim,
        other_heads=tuple(kinds[1:]),
        layer_heads=tuple(kinds.index(each) for each in heads) if len(kinds) > 1 else (),
        keys_are_values=kinds[0].keys_are_values,
    )


def _shape(
    family: Family, config: Config, description: Description, ropes: Ropes, num_tokens: int
) -> ModelShape:
    heads = family.heads(config, 0)
    return ModelShape(
        model_type=family.model_type,
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=heads.num_key_value_heads,
        head_dim=heads.head_dim,
        rms_norm_eps=float(getattr(config, family.eps_key)),
        hidden_act=_activation(family, config),
        max_context_tokens=num_tokens,
        rope=ropes.first,
        sliding_windows=_sliding_windows(family, config),
        qkv_bias=family.qkv_bias(config),
        output_bias=family.output_bias(config),
        mlp_bias=family.mlp_bias(config),
        qk_norm=family.qk_norm,
        tied_embeddings=bool(config.tie_word_embeddings),
        description=msgspec.UNSET if description == LLAMA else description,
    )


def _layer_types(config: Config) -> tuple[str, ...] | None:
    layer_types = getattr(config, "layer_types", None)
    return None if layer_types is None else tuple(layer_types)


def _sliding_windows(family: Family, config: Config) -> tuple[int | None, ...]:
    """Per layer, the number of keys a query sees, itself included.

    Mistral slides in all layers or none; Qwen slides where `layer_types` says so; Llama never
    does in transformers, whatever `sliding_window` says.
    """
    layer_types = _layer_types(config)
    if family.windows != "by layer":
        if layer_types is not None and set(layer_types) != {"full_attention"}:
            raise UnsupportedModelError(
                f"layer_types {sorted(set(layer_types))} are not supported in a "
                f"{family.model_type} configuration"
            )
        window = config.sliding_window if family.windows == "everywhere" else None
        if layer_types is not None and window is not None:
            raise UnsupportedModelError("layer_types beside sliding_window is not supported")
        windows: tuple[int | None, ...] = (window,) * config.num_hidden_layers
        return windows
    return tuple(_window_of(kind, config.sliding_window) for kind in layer_types or ())


def _window_of(layer_type: str, window: int | None) -> int | None:
    if layer_type == "full_attention":
        return None
    if layer_type == "sliding_attention" and window is not None:
        return window
    raise UnsupportedModelError(
        f"layer type {layer_type!r} with sliding_window {window} is not supported; supported: "
        "full_attention, and sliding_attention with use_sliding_window"
    )

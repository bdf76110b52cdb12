"""The model families that can be split, and what sets each apart from plain Llama."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from submodels.errors import UnsupportedModelError

Config = Any
"""A transformers configuration object; its defaults and its reading of old keys are the law."""


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture of transformers, by the names of its classes.

    `qkv_bias`, `output_bias` and `mlp_bias` answer for a configuration, after the model code.
    """

    model_type: str
    name: str
    qkv_bias: Callable[[Config], bool]
    output_bias: Callable[[Config], bool]
    mlp_bias: Callable[[Config], bool]
    qk_norm: bool = False

    @property
    def architecture(self) -> str:
        """The class named in `architectures` of config.json."""
        return f"{self.name}ForCausalLM"

    def load_config(self, config: Mapping[str, Any]) -> Config:
        """The transformers configuration object of a config.json.

        Raises:
            UnsupportedModelError: transformers refuses it.
        """
        import transformers

        config_class = getattr(transformers, f"{self.name}Config")
        # A copy, since transformers writes its defaults into nested values of what it is given.
        try:
            return config_class.from_dict(copy.deepcopy(dict(config)))
        # Configuration classes validate with several libraries, each with its own exceptions.
        except Exception as error:
            # transformers writes several lines.
            reason = " ".join(str(error).split())
            raise UnsupportedModelError(f"config.json is not a valid one: {reason}") from error


def _never(config: Config) -> bool:
    return False


def _always(config: Config) -> bool:
    return True


def _attention_bias(config: Config) -> bool:
    return bool(config.attention_bias)


def _mlp_bias(config: Config) -> bool:
    return bool(config.mlp_bias)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.model_type: family
        for family in (
            Family("llama", "Llama", _attention_bias, _attention_bias, _mlp_bias),
            Family("mistral", "Mistral", _never, _never, _never),
            Family("qwen2", "Qwen2", _always, _never, _never),
            Family("qwen3", "Qwen3", _attention_bias, _attention_bias, _never, qk_norm=True),
        )
    }
)
"""Supported families by `model_type`."""


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a config.json.

    Raises:
        UnsupportedModelError: another model type, or another head than a language model's.
    """
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise UnsupportedModelError(
            f"model type {model_type!r} is not supported; supported: {', '.join(FAMILIES)}"
        )
    architectures = config.get("architectures") or [family.architecture]
    if architectures != [family.architecture]:
        raise UnsupportedModelError(
            f"architecture {architectures} is not supported for model type {model_type!r}; "
            f"supported: {family.architecture}"
        )
    return family

"""The model families that can be split, and what sets each apart from plain Llama."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from submodels.errors import UnsupportedModelError

Config = Any
"""A transformers configuration object; its defaults and its reading of old keys are the law."""

Windows = Literal["never", "everywhere", "by layer"]
"""Where attention slides: nowhere, in every layer if at all, or as `layer_types` says."""


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
    windows: Windows = "never"
    layers_of: str = ""
    """The family whose layers these are under another name; none: its own. A golden test per row
    shows it, and vLLM and the rotary embedding go by it."""

    @property
    def architecture(self) -> str:
        """The class named in `architectures` of config.json."""
        return f"{self.name}ForCausalLM"

    @property
    def computed_as(self) -> "Family":
        """The family whose classes compute its layers."""
        return FAMILIES[self.layers_of] if self.layers_of else self

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


def _output_bias(config: Config) -> bool:
    return bool(config.attention_out_bias)


def _mlp_bias(config: Config) -> bool:
    return bool(config.mlp_bias)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.model_type: family
        for family in (
            Family("llama", "Llama", _attention_bias, _attention_bias, _mlp_bias),
            Family("mistral", "Mistral", _never, _never, _never, windows="everywhere"),
            Family("qwen2", "Qwen2", _always, _never, _never, windows="by layer"),
            Family("qwen3", "Qwen3", _attention_bias, _attention_bias, _never, True, "by layer"),
            Family(
                "seed_oss", "SeedOss", _attention_bias, _output_bias, _mlp_bias, layers_of="llama"
            ),
            Family(
                "internlm3",
                "InternLM3",
                _attention_bias,
                _attention_bias,
                _mlp_bias,
                layers_of="llama",
            ),
            Family(
                "iquestcoder",
                "IQuestCoder",
                _attention_bias,
                _attention_bias,
                _mlp_bias,
                layers_of="llama",
            ),
            Family("cwm", "Cwm", _never, _never, _mlp_bias, False, "by layer", "llama"),
            Family(
                "ministral3", "Ministral3", _never, _never, _never, False, "everywhere", "mistral"
            ),
            Family(
                "qwen2_5_vl_text",
                "Qwen2_5_VLText",
                _always,
                _never,
                _never,
                False,
                "by layer",
                "qwen2",
            ),
            Family(
                "qwen3_vl_text",
                "Qwen3VLText",
                _attention_bias,
                _attention_bias,
                _never,
                True,
                layers_of="qwen3",
            ),
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
    # transformers saves an InternLM3 as the Llama whose class it loads.
    if architectures not in ([family.architecture], [family.computed_as.architecture]):
        raise UnsupportedModelError(
            f"architecture {architectures} is not supported for model type {model_type!r}; "
            f"supported: {family.architecture}"
        )
    return family

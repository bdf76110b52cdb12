"""The model families that can be split, and what sets each apart from plain Llama."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from submodels.errors import UnsupportedModelError
from submodels.manifest import Description, Heads
from submodels.plan import described
from submodels.plan.described import Config
from submodels.plan.loading import loaded_config

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
    describe: Callable[[Config], Description] = described.llama
    """What sets its layers apart, all but their rotary embeddings."""
    turns: Callable[[Config, int], bool] = described.every_layer
    """Whether a layer has rotary positions at all."""
    heads: Callable[[Config, int], Heads] = described.same_heads
    """Those of a layer."""
    rope_by_type: bool = False
    """Layer types have rotary parameters of their own."""
    is_partial: bool = False
    """Its model code honours `partial_rotary_factor`."""
    may_be_long: bool = False
    """There are models of it with LongRoPE."""
    fused: frozenset[str] = frozenset()
    """Matrices that the checkpoint has as one: `qkv`, `gate_up`; they are split."""
    config_name: str = ""
    """Of its configuration's class, where that is not `name`."""
    rotary_name: str = ""
    """Of its rotary module's class, where that is not `name`."""
    activation_key: str = "hidden_act"
    eps_key: str = "rms_norm_eps"

    @property
    def architecture(self) -> str:
        """The class named in `architectures` of config.json."""
        return f"{self.name}ForCausalLM"

    @property
    def computed_as(self) -> "Family":
        """The family whose classes compute its layers."""
        return FAMILIES[self.layers_of] if self.layers_of else self

    @property
    def config_class(self) -> str:
        """The name of its configuration's class."""
        return f"{self.config_name or self.name}Config"

    @property
    def module(self) -> str:
        """transformers' module of its model code."""
        name = self.model_type.removesuffix("_text")
        return f"transformers.models.{name}.modeling_{name}"

    def load_config(self, config: Mapping[str, Any]) -> Config:
        """The transformers configuration object of a config.json.

        Raises:
            UnsupportedModelError: transformers refuses it, or is too old to know the model.
        """
        return loaded_config(self.config_class, config)


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


_QKV, _GATE_UP = "qkv", "gate_up"

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
            *(
                Family(model_type, name, _always, _never, _never, False, "by layer", "qwen2")
                for model_type, name in (
                    ("qwen2_vl_text", "Qwen2VLText"),
                    ("qwen2_5_vl_text", "Qwen2_5_VLText"),
                )
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
            Family(
                *("granite", "Granite", _attention_bias, _attention_bias, _mlp_bias),
                windows="never",
                describe=described.granite,
            ),
            Family(
                *("smollm3", "SmolLM3", _attention_bias, _attention_bias, _mlp_bias),
                windows="by layer",
                turns=described.smollm3_turns,
            ),
            Family(
                *("olmo2", "Olmo2", _attention_bias, _attention_bias, _never),
                qk_norm=True,
                windows="never",
                describe=described.olmo,
            ),
            Family(
                *("olmo3", "Olmo3", _attention_bias, _attention_bias, _never),
                windows="by layer",
                qk_norm=True,
                describe=described.olmo,
                rope_by_type=True,
            ),
            Family(
                *("phi3", "Phi3", _never, _never, _never),
                windows="everywhere",
                is_partial=True,
                may_be_long=True,
                fused=frozenset({_QKV, _GATE_UP}),
            ),
            Family(
                *("gemma2", "Gemma2", _attention_bias, _attention_bias, _never),
                windows="by layer",
                describe=described.gemma2,
                activation_key="hidden_activation",
            ),
            Family(
                *("gemma3_text", "Gemma3", _attention_bias, _attention_bias, _never),
                windows="by layer",
                qk_norm=True,
                describe=described.gemma3,
                rope_by_type=True,
                config_name="Gemma3Text",
                activation_key="hidden_activation",
            ),
            Family(
                *("gemma4_text", "Gemma4", _attention_bias, _attention_bias, _never),
                windows="by layer",
                qk_norm=True,
                describe=described.gemma4,
                heads=described.gemma4_heads,
                rope_by_type=True,
                config_name="Gemma4Text",
                rotary_name="Gemma4Text",
                activation_key="hidden_activation",
            ),
            Family(
                *("gemma4_unified_text", "Gemma4Unified", _attention_bias, _attention_bias, _never),
                windows="by layer",
                qk_norm=True,
                layers_of="gemma4_text",
                describe=described.gemma4,
                heads=described.gemma4_heads,
                rope_by_type=True,
                config_name="Gemma4UnifiedText",
                activation_key="hidden_activation",
            ),
            Family(
                *("cohere2", "Cohere2", _attention_bias, _attention_bias, _never),
                windows="by layer",
                describe=described.cohere2,
                turns=described.sliding_layers,
                eps_key="layer_norm_eps",
            ),
            Family(
                *("glm4", "Glm4", _attention_bias, _never, _never),
                windows="never",
                describe=described.glm4,
                is_partial=True,
                fused=frozenset({_GATE_UP}),
            ),
            Family(
                *("exaone4", "Exaone4", _never, _never, _never),
                windows="by layer",
                qk_norm=True,
                describe=described.exaone4,
                turns=described.exaone4_turns,
            ),
            Family(
                *("qwen3_moe", "Qwen3Moe", _attention_bias, _attention_bias, _never),
                qk_norm=True,
                windows="everywhere",
                describe=described.qwen3_moe,
            ),
            Family(
                *("mixtral", "Mixtral", _never, _never, _never),
                windows="everywhere",
                describe=described.mixtral,
            ),
            Family(
                *("gpt_oss", "GptOss", _attention_bias, _attention_bias, _never),
                windows="by layer",
                describe=described.gpt_oss,
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

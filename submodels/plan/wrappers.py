"""Models that see pictures, or hear, around a supported language model: its text part."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from submodels.errors import UnsupportedModelError
from submodels.plan.families import FAMILIES
from submodels.plan.loading import loaded_config
from submodels.plan.refusals import unsupported


@dataclass(frozen=True, slots=True)
class Wrapper:
    """One architecture of transformers that holds a language model and something that sees or
    hears."""

    model_type: str
    name: str
    has_factors: bool = False
    """Its head scales and caps logits as the language model's own does."""

    @property
    def architecture(self) -> str:
        """The class named in `architectures` of config.json."""
        return f"{self.name}ForConditionalGeneration"


WRAPPERS: Mapping[str, Wrapper] = MappingProxyType(
    {
        wrapper.model_type: wrapper
        for wrapper in (
            Wrapper("qwen2_vl", "Qwen2VL"),
            Wrapper("qwen2_5_vl", "Qwen2_5_VL"),
            Wrapper("qwen3_vl", "Qwen3VL"),
            Wrapper("mistral3", "Mistral3"),
            Wrapper("gemma3", "Gemma3"),
            Wrapper("llava", "Llava"),
            Wrapper("llava_next", "LlavaNext"),
            Wrapper("llava_onevision", "LlavaOnevision"),
            Wrapper("internvl", "InternVL"),
            Wrapper("idefics3", "Idefics3"),
            Wrapper("smolvlm", "SmolVLM"),
            Wrapper("exaone4_5", "Exaone4_5_"),
            Wrapper("gemma4", "Gemma4", has_factors=True),
            Wrapper("gemma4_unified", "Gemma4Unified", has_factors=True),
        )
    }
)
"""Supported wrappers by `model_type`."""

_TEXT: Mapping[str, str] = MappingProxyType(
    {
        "model.language_model.": "model.",
        "model.text_model.": "model.",
        "language_model.model.": "model.",
        "language_model.lm_head.": "lm_head.",
    }
)
"""How names of the language model begin in published checkpoints and in transformers', and how
they would without the wrapper."""

_SENSES = tuple(
    before + name
    for name in (
        "visual.",
        "vision_tower.",
        "vision_model.",
        "vision_embedder.",
        "embed_vision.",
        "audio_tower.",
        "embed_audio.",
        "multi_modal_projector.",
        "connector.",
        "image_newline",
    )
    for before in ("model.", "")
)
# Drafts of the wrapper's own, of several tokens at a time, are not computed here.
_LEFT_OUT = (*_SENSES, "mtp.")

# A language model's own head applies them; that of a wrapper mostly does not, in transformers.
_OF_THE_HEAD = ("logit_scale", "logits_scaling", "final_logit_softcapping")
# What only the wrapper says of itself; the language model has it all the same.
_OUTER_KEYS = ("quantization_config", "quantization", "bos_token_id", "eos_token_id")


def is_wrapper(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a wrapper we know."""
    model_type = config.get("model_type")
    return isinstance(model_type, str) and model_type in WRAPPERS


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's own config.json; of a model that is no wrapper, what came.

    Raises:
        UnsupportedModelError: another model, a wrapper around another one, or one that transformers
            refuses.
    """
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in FAMILIES:
        return dict(config)
    if not is_wrapper(config):
        raise UnsupportedModelError(unsupported(config, FAMILIES, WRAPPERS))
    wrapper = WRAPPERS[config["model_type"]]
    architectures = config.get("architectures") or [wrapper.architecture]
    if architectures != [wrapper.architecture]:
        raise UnsupportedModelError(
            f"architecture {architectures} is not supported for model type "
            f"{wrapper.model_type!r}; supported: {wrapper.architecture}"
        )
    loaded = _loaded(wrapper, config)
    text: dict[str, Any] = loaded.get_text_config().to_dict()
    model_type = text.get("model_type")
    if model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"the text part of this {wrapper.model_type} is a {model_type!r}, which is not "
            f"supported; supported: {', '.join(FAMILIES)}"
        )
    _refuse_factors(wrapper, text)
    outer = {key: config[key] for key in _OUTER_KEYS if text.get(key) is None and key in config}
    text |= {**outer, "tie_word_embeddings": loaded.tie_word_embeddings}
    return {key: value for key, value in text.items() if key != "architectures"}


def _refuse_factors(wrapper: Wrapper, text: Mapping[str, Any]) -> None:
    for key in () if wrapper.has_factors else _OF_THE_HEAD:
        if text.get(key) not in (None, 1.0):
            raise UnsupportedModelError(
                f"the language model of this {wrapper.model_type} has a {key} of {text[key]}, "
                "which transformers leaves out within it and others do not: split that language "
                "model, where it is published by itself"
            )


def text_name(name: str) -> str | None:
    """A tensor's name without the wrapper; None for a part that is left out."""
    if name.startswith(_LEFT_OUT):
        return None
    for begin, instead in _TEXT.items():
        if name.startswith(begin):
            return instead + name.removeprefix(begin)
    return name


def _loaded(wrapper: Wrapper, config: Mapping[str, Any]) -> Any:
    from submodels.plan.plan import refuse_absurd_sizes

    inner = (config.get(f"{part}_config") for part in ("text", "vision", "audio"))
    for each in (config, *inner):
        if isinstance(each, Mapping):
            refuse_absurd_sizes(each)
    return loaded_config(f"{wrapper.name}Config", config)

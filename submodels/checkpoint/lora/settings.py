"""adapter_config.json: what of LoRA an adapter uses, and how strong each of its updates is."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from submodels.errors import UnsupportedModelError

# They say how the adapter was trained, or what its tensors show themselves. `fan_in_fan_out` is of
# layers that none of our families has; peft ignores it for the others.
_PASSED_OVER = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    }
)
_READ = frozenset(
    {
        *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "use_dora"),
        "trainable_token_indices",
    }
)
# Other ways to begin (pissa, olora, loftq, corda) change the base's weights as well.
_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")
_TASKS = (None, "CAUSAL_LM")

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """What decides how an adapter's two factors become an update of a weight."""

    rank: int
    alpha: float
    is_rank_stabilised: bool
    """Whether the update is divided by the root of the rank instead of the rank."""
    ranks: Mapping[str, int]
    """Other ranks, by regular expressions of the ends of modules' names."""
    alphas: Mapping[str, float]
    is_decomposed: bool
    """Whether each row of a changed weight has a length of its own (DoRA)."""
    tokens: Mapping[str, tuple[int, ...]]
    """Rows of embeddings that the adapter brings whole, by ends of modules' names."""

    def rank_of(self, module: str) -> int:
        """The rank of a module's update, by its name in the base model."""
        return _matched(self.ranks, module, self.rank)

    def tokens_of(self, module: str) -> tuple[int, ...]:
        """The rows that the adapter brings whole of a module's weight."""
        found = [ids for end, ids in self.tokens.items() if f".{module}".endswith(f".{end}")]
        return found[0] if found else ()

    def scaling(self, module: str) -> float:
        """What the product of both factors is multiplied by."""
        rank, alpha = self.rank_of(module), _matched(self.alphas, module, self.alpha)
        return alpha / math.sqrt(rank) if self.is_rank_stabilised else alpha / rank


def lora_settings(config: Mapping[str, Any], where: str) -> LoraSettings:
    """The settings of an adapter_config.json.

    Raises:
        UnsupportedModelError: another kind of adapter than LoRA, or something of it that would
            give other weights, named.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModelError(
            f"{where}: peft_type {kind!r} is not supported; supported: LORA"
        )
    if config.get("task_type") not in _TASKS:
        raise UnsupportedModelError(
            f"{where}: task_type {config['task_type']!r} is not supported; supported: CAUSAL_LM"
        )
    begun = config.get("init_lora_weights")
    if begun not in _BEGINNINGS:
        raise UnsupportedModelError(
            f"{where}: init_lora_weights {begun!r} changes the base model's weights too; convert "
            "the adapter with peft (path_initial_model_for_weight_conversion)"
        )
    for key, value in config.items():
        # Absent and off are the same, of settings that are yet to come as well.
        if key not in _PASSED_OVER | _READ and value not in (None, False, [], {}):
            raise UnsupportedModelError(f"{where}: {key} is set ({value!r:.40}), not supported")
    try:
        return _read(config)
    except (TypeError, ValueError, re.error, AttributeError) as error:
        raise UnsupportedModelError(f"{where} is not valid: {error}") from error


def _read(config: Mapping[str, Any]) -> LoraSettings:
    ranks = {_checked(k): int(v) for k, v in (config.get("rank_pattern") or {}).items()}
    alphas = {_checked(k): float(v) for k, v in (config.get("alpha_pattern") or {}).items()}
    rank, alpha = int(config.get("r", 8)), float(config.get("lora_alpha", 8))
    if min([rank, *ranks.values()]) < 1:
        raise ValueError("expected ranks of 1 or more")
    if not all(map(math.isfinite, [alpha, *alphas.values()])):
        raise ValueError("expected finite alphas")
    return LoraSettings(
        rank,
        alpha,
        bool(config.get("use_rslora")),
        MappingProxyType(ranks),
        MappingProxyType(alphas),
        bool(config.get("use_dora")),
        MappingProxyType(_tokens(config.get("trainable_token_indices") or {})),
    )


def _tokens(told: Any) -> dict[str, tuple[int, ...]]:
    named = told if isinstance(told, Mapping) else {"embed_tokens": told}
    tokens = {str(module): tuple(ids) for module, ids in named.items()}
    if any(type(each) is not int or each < 0 for ids in tokens.values() for each in ids):
        raise ValueError(f"trainable_token_indices: expected ids, got {told!r:.60}")
    return tokens


def _checked(pattern: str) -> str:
    re.compile(pattern)
    return pattern


def _matched(patterns: Mapping[str, _Number], module: str, otherwise: _Number) -> _Number:
    """Of the first pattern that fits the end of a name. Source: peft's `get_pattern_key`."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise

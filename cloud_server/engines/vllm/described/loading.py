"""Tensors under a checkpoint's names into the parameters of described layers."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from vllm.model_executor.model_loader.weight_utils import default_weight_loader
from vllm.model_executor.models.utils import is_pp_missing_parameter

_JOINED = (
    (".self_attn.q_proj.", ".self_attn.qkv_proj.", "q"),
    (".self_attn.k_proj.", ".self_attn.qkv_proj.", "k"),
    (".self_attn.v_proj.", ".self_attn.qkv_proj.", "v"),
    (".mlp.gate_proj.", ".mlp.gate_up_proj.", 0),
    (".mlp.up_proj.", ".mlp.gate_up_proj.", 1),
)
"""Names in a checkpoint, names here, and which part of the joint matrix it is."""

_STACKED = (("gate_up_proj", "w13"), ("down_proj", "w2"))
_EXPERTS = {
    f".mlp.experts.{name}{end}": (f".mlp.experts.routed_experts.{here}{kind}", f"gpt_oss_{here}")
    for name, here in _STACKED
    for end, kind in (("", "_weight"), ("_bias", "_bias"))
}
"""How a tensor with all experts ends, its parameter's end here, and what vLLM calls its parts."""

_HALVES = {
    ".experts.gate_up_proj": (".experts.made.routed_experts.w13_weight", ("w1", "w3")),
    ".experts.down_proj": (".experts.made.routed_experts.w2_weight", ("w2",)),
}
"""The same of experts beside a gated half, whose parts lie above each other."""


def load_described(model: Any, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
    """Load the weights of this stage's layers; the names of the parameters that were.

    Raises:
        ValueError: a weight that no parameter is for.
    """
    parameters = dict(model.named_parameters())
    present = ((name, w) for name, w in weights if not is_pp_missing_parameter(name, model))
    all_present = _with_values(present, dict(model.named_modules()))
    loaded = (_load(name, weight, parameters) for name, weight in all_present)
    return {name for name in loaded if name is not None}


def _with_values(
    weights: Iterable[tuple[str, torch.Tensor]], modules: dict[str, Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights, those of keys a second time as those of values where they are both."""
    for name, weight in weights:
        yield name, weight
        place, is_key, end = name.partition(".k_proj.")
        if is_key and getattr(modules.get(place), "keys_are_values", False):
            yield f"{place}.v_proj.{end}", weight


def _load(name: str, weight: torch.Tensor, parameters: dict[str, Any]) -> str | None:
    """The name of the parameter that was loaded; None for what adds nothing."""
    for end, (own_end, part) in _EXPERTS.items():
        if name.endswith(end):
            here = name.removesuffix(end) + own_end
            parameter = _parameter(here, parameters)
            for number, expert in enumerate(weight):
                _loader(parameter)(
                    parameter, expert, weight_name=here, shard_id=part, expert_id=number
                )
            return here
    for end, (own_end, halves) in _HALVES.items():
        if name.endswith(end):
            here = name.removesuffix(end) + own_end
            _load_halves(_parameter(here, parameters), weight, here, halves)
            return here
    for there, joint, which in _JOINED:
        if there in name:
            here = name.replace(there, joint)
            if _adds_nothing(here, weight, parameters):
                return None
            parameter = _parameter(here, parameters)
            _loader(parameter)(parameter, weight, which)
            return here
    if _adds_nothing(name, weight, parameters):
        return None
    parameter = _parameter(name, parameters)
    _loader(parameter)(parameter, weight)
    return name


def _load_halves(parameter: Any, weight: torch.Tensor, here: str, halves: tuple[str, ...]) -> None:
    for number, expert in enumerate(weight):
        for part, half in zip(expert.chunk(len(halves)), halves, strict=True):
            _loader(parameter)(parameter, part, weight_name=here, shard_id=half, expert_id=number)


def _adds_nothing(name: str, weight: torch.Tensor, parameters: dict[str, Any]) -> bool:
    """Whether it is a bias of zeros that the layer does not have, as AutoGPTQ wrote them."""
    return name not in parameters and name.endswith(".bias") and not bool(weight.any())


def _parameter(name: str, parameters: dict[str, Any]) -> Any:
    if name not in parameters:
        raise ValueError(f"expected weights of described layers, got {name}")
    return parameters[name]


def _loader(parameter: Any) -> Any:
    return getattr(parameter, "weight_loader", default_weight_loader)

"""Which of vLLM's model classes runs the middle layers of a model, and which models none runs.

vLLM's own class of a family is used where it gives middle layers as they are: it then brings what
vLLM has for it. The others run in the class that is built from the description.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from cloud_server.engines.vllm.plugin import BASES, DESCRIBED
from process.errors import StartError
from submodels.manifest import Experts, ModelShape
from submodels.plan.families import FAMILIES

_SWIGLU: Final = (7.0, 1.702)
"""Limit and alpha of clamped experts, which are constants of vLLM's kernels."""

_BESIDE: Final = (
    *("router.proj", "router.scale", "router.per_expert_scale"),
    *("experts.gate_up_proj", "experts.down_proj"),
)
"""How tensors of experts beside a gated half are called in our class for vLLM."""

CPU_WIDTH: Final = 32
"""vLLM's experts on a CPU take matrices of a multiple of it on both sides."""


@dataclass(frozen=True, slots=True)
class MiddleClass:
    """What vLLM is told of the middle layers besides their config.json, and what they ask of it.

    `head_dims` are all sizes of its layers' heads, `expert_widths` the sides of a clamped expert's
    matrices in one worker.
    """

    head_dims: tuple[int, ...]
    overrides: Mapping[str, str | int | list[str]] = field(default_factory=dict)
    expert_widths: tuple[int, ...] = ()


def middle_class(shape: ModelShape, layers: range, tensor_parallel_size: int) -> MiddleClass:
    """The class that runs these layers of a model, in so many workers each.

    Raises:
        StartError: there is none, with the reason.
    """
    head_dims = tuple(sorted({shape.heads_of(layer).head_dim for layer in layers}))
    if has_own_class(shape, layers):
        return MiddleClass(head_dims)
    complaint = why_not_described(shape)
    if complaint is not None:
        raise StartError(f"engine vllm: {shape.model_type}: {complaint}; use torch")
    overrides: dict[str, str | int | list[str]] = {
        "architectures": [DESCRIBED],
        "hat_shape": msgspec.json.encode(shape).decode(),
        "hat_model_layer": layers.start,
    }
    experts = shape.described.experts
    if experts is None:
        return MiddleClass(head_dims, overrides)
    widths = (shape.hidden_size, experts.inner_size // tensor_parallel_size)
    return MiddleClass(head_dims, overrides, widths)


def has_own_class(shape: ModelShape, layers: range) -> bool:
    """Whether a class of vLLM gives these layers of the model as the residual stream has them."""
    family = FAMILIES.get(shape.model_type)
    if family is None or family.computed_as.architecture not in BASES:
        return False
    windows = {shape.sliding_windows[layer] for layer in layers}
    # vLLM chooses between the two sets of LongRoPE by the context that is served, not by ours.
    is_long = shape.model_type == "phi3" and shape.rope.attention_scaling != 1
    # vLLM's Qwen2 takes the size of heads from the hidden size, whatever the configuration says.
    is_narrow = shape.head_dim * shape.num_attention_heads != shape.hidden_size
    is_other = is_long or (family.computed_as.model_type == "qwen2" and is_narrow)
    return len(windows) == 1 and not is_other


def why_not_described(shape: ModelShape) -> str | None:
    """Why the class built from descriptions does not run a model, or None."""
    if shape.model_type not in FAMILIES:
        return "the model type is not known here"
    if shape.described.norm_offset not in (0.0, 1.0):
        return (
            f"expected gains of norms as stored or plus 1, not plus {shape.described.norm_offset}"
        )
    experts = shape.described.experts
    return None if experts is None else _complaint_of(experts)


def _complaint_of(experts: Experts) -> str | None:
    if experts.before:
        named = (
            *(experts.router, experts.router_scale, experts.expert_scale),
            *(experts.gate, experts.down),
        )
        return None if named == _BESIDE else f"expected tensors {_BESIDE}, got {named}"
    if not experts.are_stacked:
        return "expected one sliding window in all layers with such experts"
    got = (experts.swiglu_limit, experts.swiglu_alpha)
    if got != _SWIGLU:
        return (
            f"expected experts with swiglu_limit {_SWIGLU[0]:g} and alpha {_SWIGLU[1]:g}, which "
            f"are constants in vLLM, got {got[0]} and {got[1]}"
        )
    return None

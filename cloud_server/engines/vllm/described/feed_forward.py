"""The feed-forward half of a layer: gated, or experts that lie in one tensor."""

from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.activation import get_act_and_mul_fn
from vllm.model_executor.layers.fused_moe import FusedMoEFactory, GateLinear
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import MergedColumnParallelLinear, RowParallelLinear
from vllm.model_executor.models.gpt_oss import GptOssRoutedExperts

from submodels.bundle.layers import route
from submodels.manifest import Experts, ModelShape


class GatedFeedForward(nn.Module):
    """Gate and up projection, an activation between them, and down."""

    def __init__(self, shape: ModelShape, quantised: Any, prefix: str) -> None:
        super().__init__()
        inner, hidden = shape.intermediate_size, shape.hidden_size
        self.gate_up_proj = MergedColumnParallelLinear(
            hidden,
            [inner] * 2,
            bias=shape.mlp_bias,
            quant_config=quantised,
            prefix=f"{prefix}.gate_up_proj",
        )
        self.down_proj = RowParallelLinear(
            inner,
            hidden,
            bias=shape.mlp_bias,
            quant_config=quantised,
            prefix=f"{prefix}.down_proj",
        )
        self.act_fn = get_act_and_mul_fn(shape.hidden_act)

    def forward(self, normed: torch.Tensor) -> torch.Tensor:
        """What is added to rows `[T, H]`."""
        gate_up, _ = self.gate_up_proj(normed)
        update: torch.Tensor = self.down_proj(self.act_fn(gate_up))[0]
        return update


class StackedExperts(nn.Module):
    """Clamped experts with biases, of which a router chooses some for each row (gpt-oss)."""

    def __init__(self, shape: ModelShape, experts: Experts, quantised: Any, prefix: str) -> None:
        super().__init__()
        self.router = GateLinear(
            shape.hidden_size,
            experts.num_experts,
            bias=True,
            prefix=f"{prefix}.router",
            return_bias=False,
        )
        self.experts = FusedMoEFactory(
            **_sizes(shape, experts),
            quant_config=quantised,
            prefix=f"{prefix}.experts",
            has_bias=True,
            activation="swigluoai",
            routed_experts_cls=GptOssRoutedExperts,
        )
        self._hidden_size = shape.hidden_size

    def forward(self, normed: torch.Tensor) -> torch.Tensor:
        """What is added to rows `[T, H]`."""
        update: torch.Tensor = self.experts(hidden_states=normed, router_logits=self.router(normed))
        return update[:, : self._hidden_size]


class ScaledRouter(nn.Module):
    """Scores of the experts beside a gated half, and which of them a row takes (Gemma 4)."""

    def __init__(self, shape: ModelShape, experts: Experts, prefix: str) -> None:
        super().__init__()
        self._norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps, has_weight=False)
        self._root = shape.hidden_size**-0.5
        self._experts = experts
        self.scale = nn.Parameter(torch.ones(shape.hidden_size), requires_grad=False)
        self.per_expert_scale = nn.Parameter(torch.ones(experts.num_experts), requires_grad=False)
        self.proj = GateLinear(
            shape.hidden_size,
            experts.num_experts,
            bias=False,
            prefix=f"{prefix}.proj",
            return_bias=False,
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Scores `[T, E]` of rows of the stream."""
        scores: torch.Tensor = self.proj(self._norm(rows) * self.scale * self._root)
        return scores

    def choose(
        self, hidden_states: torch.Tensor, gating_output: torch.Tensor, topk: int, renormalize: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Shares and numbers of the chosen experts, as vLLM asks for them by these names."""
        shares, chosen = route(gating_output, self._experts)
        scaled = shares.float() * self.per_expert_scale[chosen].float()
        return scaled, chosen.to(torch.int32)


class BesideExperts(nn.Module):
    """Experts beside a gated half, all of them in one tensor, without biases."""

    def __init__(
        self, shape: ModelShape, experts: Experts, router: ScaledRouter, quantised: Any, prefix: str
    ) -> None:
        super().__init__()
        self.made = FusedMoEFactory(
            **_sizes(shape, experts),
            quant_config=quantised,
            prefix=f"{prefix}.made",
            custom_routing_function=router.choose,
            activation=_ACTIVATIONS[shape.hidden_act],
        )
        self._hidden_size = shape.hidden_size

    def forward(self, normed: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """What they give for rows `[T, H]` whose router says `scores`."""
        update: torch.Tensor = self.made(hidden_states=normed, router_logits=scores)
        return update[:, : self._hidden_size]


def _sizes(shape: ModelShape, experts: Experts) -> dict[str, Any]:
    """What vLLM's experts are told of any kind of them."""
    return {
        "num_experts": experts.num_experts,
        "top_k": experts.num_chosen,
        "hidden_size": shape.hidden_size,
        "intermediate_size": experts.inner_size,
        "renormalize": experts.are_renormalised,
    }


_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


def make_feed_forward(shape: ModelShape, quantised: Any, prefix: str) -> nn.Module:
    """The half that the shape describes, without experts beside it."""
    experts = shape.described.experts
    if experts is None or experts.before:
        return GatedFeedForward(shape, quantised, prefix)
    return StackedExperts(shape, experts, quantised, prefix)

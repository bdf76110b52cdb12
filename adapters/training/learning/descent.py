"""One step down a loss, the same for adapters and for heads."""

import torch
from torch import Tensor, nn

from adapters.options import Recipe

_LOSS_MEMORY = 0.99
"""Weight of the past in the loss that is shown and recorded: about the last hundred steps."""


def new_optimizer(network: nn.Module) -> torch.optim.AdamW:
    """The optimiser before its first step; `descend` gives it its rate."""
    return torch.optim.AdamW(network.parameters(), lr=0.0, betas=(0.9, 0.95))


def descend(
    optimizer: torch.optim.AdamW,
    recipe: Recipe,
    learning_rate: float,
    loss: Tensor,
) -> float:
    """Take one step down the loss of a batch, by the recipe; that loss."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
        group["weight_decay"] = recipe.weight_decay
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
    optimizer.step()
    return float(loss.detach())


def smoothed(recent_loss: float, loss: float, step: int) -> float:
    """The recent loss with that of step `step`, counted from 0, added."""
    memory = _LOSS_MEMORY if step else 0.0
    return memory * recent_loss + (1 - memory) * loss

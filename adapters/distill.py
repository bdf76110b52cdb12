"""Distillation: the adapter learns to say what the middle layers would have said."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adapters.data.states import Batch, StateFile
from adapters.data.whole_model import WholeModel
from adapters.networks import AdapterNetwork
from submodels.bundle.layers import LayerCache, run_layers


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. Defaults are those measured in docs/adapters.md.

    One step takes `batch_windows` windows; the learning rate rises for `warmup_steps` to `peak_lr`
    and falls along a cosine to 1 % of it at the end: the last of `steps`, or when the time is up
    where a training has one; `steps` are then the most it may take. The loss is SmoothL1 between
    states after the final norm, plus `token_weight` times the cross-entropy to the target's
    distribution, as in the HAT paper.
    """

    steps: int
    batch_windows: int = 4
    peak_lr: float = 1e-2
    warmup_steps: int = 50
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    token_weight: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_windows < 1:
            raise ValueError(
                f"expected 1 or more steps and windows in a step, got {self.steps} and "
                f"{self.batch_windows}"
            )

    def learning_rate(self, step: int, used_share: float = 0.0) -> float:
        """The rate of step `step`, counted from 0, when that share of the time is used."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        done = min(1.0, max(0, step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
        done = min(1.0, max(done, used_share))
        return self.peak_lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))

    def windows_of(self, step: int, num_windows: int) -> list[int]:
        """Which windows step `step` takes: a new order in every pass, a function of the seed."""
        per_pass = max(1, num_windows // self.batch_windows)
        order = np.random.Generator(np.random.Philox([self.seed, step // per_pass]))
        shuffled = order.permutation(num_windows)
        start = step % per_pass * self.batch_windows
        return [int(index) for index in shuffled[start : start + self.batch_windows]]


class Distillation:
    """An adapter in training: network, optimiser, and the number of steps done."""

    def __init__(
        self, network: AdapterNetwork, model: WholeModel, states: StateFile, num_windows: int
    ) -> None:
        self.network = network
        self.step = 0
        self._model = model
        self._states = states
        self._num_windows = num_windows
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=0.0, betas=(0.9, 0.95))

    def run(self, recipe: Recipe, used_share: Callable[[], float] = lambda: 0.0) -> Iterator[float]:
        """Train on to the recipe's last step, or until all of the time is used.

        Yields the loss of every step. `used_share` is asked before each of them.
        """
        device = self._model.embedding.device
        while self.step < recipe.steps and (used := used_share()) < 1.0:
            batch = self._states.batch(recipe.windows_of(self.step, self._num_windows), device)
            yield self._one_step(recipe, batch, recipe.learning_rate(self.step, used))

    def _one_step(self, recipe: Recipe, batch: Batch, learning_rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
            group["weight_decay"] = recipe.weight_decay
        self.optimizer.zero_grad(set_to_none=True)
        loss = distillation_loss(self.network, self._model, batch, recipe.token_weight)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())


def distillation_loss(
    network: Callable[[Tensor], Tensor], model: WholeModel, batch: Batch, token_weight: float
) -> Tensor:
    """SmoothL1 on states after the final norm plus weighted cross-entropy, per known position.

    Source: HAT (arXiv:2503.18989), whose loss is EAGLE's (arXiv:2401.15077).
    """
    dtype = model.embedding.dtype
    estimates = network(batch.shallow)[batch.known].to(dtype)
    estimate = model.final(output_layers(model, estimates, batch.known))
    target = model.final(batch.top[batch.known].to(dtype))
    states = torch.nn.functional.smooth_l1_loss(estimate.float(), target.float())
    probabilities = model.head.lm_head(target).float().softmax(-1)
    logits = model.head.lm_head(estimate).float()
    tokens = torch.nn.functional.cross_entropy(logits, probabilities)
    return states + token_weight * tokens


def output_layers(model: WholeModel, estimates: Tensor, known: Tensor) -> Tensor:
    """The output layers over the estimates `[N, H]` of all known positions, window by window.

    Past positions are estimates here, where a device has the true deep states of all it has
    accepted: training sees slightly worse pasts than drafting does.
    """
    if not model.output_layers:
        return estimates
    rows = []
    for window in torch.split(estimates, known.sum(1).tolist()):
        caches = [LayerCache() for _ in model.output_layers]
        rows.append(run_layers(model.output_layers, window, 0, caches))
    return torch.cat(rows)

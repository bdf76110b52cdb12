"""Distillation: the adapter learns to say what the middle layers would have said."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adapters.data.draft_head import DraftHead
from adapters.data.features import FeatureBatch
from adapters.networks import AdapterNetwork, BlockAdapter
from adapters.options import Recipe
from adapters.training.learning.block_training import block_loss
from adapters.training.learning.descent import descend, new_optimizer
from adapters.training.learning.losses import distances
from adapters.training.learning.self_feeding import chain_estimates
from adapters.training.order import TrainingOrder
from submodels.bundle.layers import LayerCache, run_layers


class Distillation:
    """An adapter in training: network, optimiser, and the number of steps done."""

    def __init__(self, network: AdapterNetwork, head: DraftHead, order: TrainingOrder) -> None:
        self.network = network
        self.step = 0
        self._head = head
        self._order = order
        self.optimizer = new_optimizer(network)

    def run(self, recipe: Recipe, used_share: Callable[[], float] = lambda: 0.0) -> Iterator[float]:
        """Train on to the recipe's last step, or until all of the time is used.

        Yields the loss of every step. `used_share` is asked before each of them.
        """
        while self.step < recipe.steps and (used := used_share()) < 1.0:
            yield self._one_step(recipe, recipe.learning_rate(self.step, used))

    def _one_step(self, recipe: Recipe, learning_rate: float) -> float:
        features, indices = self._order.at(self.step, recipe)
        # What of a text is learned from is a function of seed and step.
        chance = np.random.Generator(np.random.Philox([recipe.seed, self.step, 1]))
        last_only = (chance.random(len(indices)) >= recipe.earlier_share).tolist()
        all_fed = (chance.random(len(indices)) < recipe.all_fed_share).tolist()
        device = self._head.weight.device
        batch = features.batch(indices, device, last_only, all_fed)
        with torch.autocast(
            device.type, torch.bfloat16, enabled=recipe.number_format == "bfloat16"
        ):
            loss = chain_loss(self.network, self._head, batch, recipe, chance)
        self.step += 1
        return descend(self.optimizer, recipe, learning_rate, loss)


@dataclass(frozen=True, slots=True)
class _Weighted:
    """A sum of losses, and of their weights."""

    loss: Tensor
    weight: float


def chain_loss(
    network: AdapterNetwork,
    head: DraftHead,
    batch: FeatureBatch,
    recipe: Recipe,
    chance: np.random.Generator | None = None,
) -> Tensor:
    """The mean loss of a chain's positions, those further on with less weight.

    Blocks are learned behind positions that `chance` chooses; None is the same chance every time.

    Source: DSpark's total variation beside cross-entropy; EAGLE-3's self-fed steps; the states'
    SmoothL1 is that of HAT (arXiv:2503.18989).
    """
    if isinstance(network, BlockAdapter):
        drawn = chance or np.random.Generator(np.random.Philox([recipe.seed, 2]))
        return block_loss(network, head, batch, recipe, drawn)
    scored, total = batch.scored, _Weighted(batch.shallow.new_zeros(()), 0.0)
    weight = 1.0
    for index, estimates in enumerate(chain_estimates(network, batch, recipe.self_steps)):
        if index:
            scored = _behind(scored) & batch.scored
        loss = position_loss(estimates, head, batch, scored, recipe)
        total = _Weighted(total.loss + weight * loss, total.weight + weight)
        weight *= recipe.step_decay
    return total.loss / total.weight


def position_loss(
    estimates: Tensor, head: DraftHead, batch: FeatureBatch, scored: Tensor, recipe: Recipe
) -> Tensor:
    """The mean loss of estimates `[B, T, H]` where they are scored; 0 where nothing is."""
    if not bool(scored.any()):
        return estimates.sum() * 0.0
    model = head.model
    rows = estimates[batch.within].to(model.embedding.dtype)
    top = output_layers(head, rows, batch.within)[scored[batch.within]]
    final = model.final(top)
    apart = distances(
        head.of_final(final), head.places, batch.likeliest[scored], batch.log_probs[scored]
    )
    loss = recipe.token_weight * apart.cross_entropy.mean()
    loss = loss + recipe.variation_weight * (1 - apart.accepted.mean())
    if recipe.state_weight:
        target = model.final(batch.top[scored].to(final.dtype))
        states = torch.nn.functional.smooth_l1_loss(final.float(), target.float())
        loss = loss + recipe.state_weight * states
    return loss


def output_layers(head: DraftHead, estimates: Tensor, within: Tensor) -> Tensor:
    """The output layers over the estimates `[N, H]` of all positions, text by text.

    Past positions are estimates here, where a device has the true deep states of all it has
    accepted: training sees slightly worse pasts than drafting does.
    """
    layers = head.model.output_layers
    if not layers:
        return estimates
    texts = torch.split(estimates, within.sum(1).tolist())
    return torch.cat(
        [run_layers(layers, text, 0, [LayerCache() for _ in layers]) for text in texts]
    )


def _behind(marks: Tensor) -> Tensor:
    """Marks `[B, T]` one place further on."""
    return torch.nn.functional.pad(marks[:, :-1], (1, 0))

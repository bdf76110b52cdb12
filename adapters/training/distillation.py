"""Distillation: the adapter learns to say what the middle layers would have said."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from adapters.data.states import Batch, StateFile
from adapters.data.whole_model import WholeModel
from adapters.networks import AdapterNetwork
from adapters.options import Recipe
from adapters.training.descent import descend, new_optimizer
from submodels.bundle.layers import LayerCache, run_layers


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
        self.optimizer = new_optimizer(network)

    def run(self, recipe: Recipe, used_share: Callable[[], float] = lambda: 0.0) -> Iterator[float]:
        """Train on to the recipe's last step, or until all of the time is used.

        Yields the loss of every step. `used_share` is asked before each of them.
        """
        device = self._model.embedding.device
        while self.step < recipe.steps and (used := used_share()) < 1.0:
            batch = self._states.batch(recipe.windows_of(self.step, self._num_windows), device)
            yield self._one_step(recipe, batch, recipe.learning_rate(self.step, used))

    def _one_step(self, recipe: Recipe, batch: Batch, learning_rate: float) -> float:
        loss = distillation_loss(self.network, self._model, batch, recipe.token_weight)
        self.step += 1
        return descend(self.optimizer, recipe, learning_rate, loss)


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

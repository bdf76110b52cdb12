"""A start that is solved for instead of learned: ridge regressions of deep rows on what is there.

An adapter that begins as a layer of the model takes thousands of steps to come to where linear
algebra puts it in a minute. First the matrix of the feed, so that a fed row is as near to the deep
row as it can be; then what attention and MLP add, with the last middle layer's other weights as
they are. Both are linear in the matrices that are solved for. Rows of large deep rows weigh less,
as the final norm divides by their size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters.data.features import FeatureBatch
from adapters.networks import AdapterNetwork, FedAdapter, LayerAdapter

_ROWS = 60_000
"""So many rows are enough, and take half a minute."""
_MAX_WIDTH = 8192
"""Of what a matrix is solved from; wider ones take too much memory, and stay as they were."""
_FEED_RIDGE = 1e-4
_LAYER_RIDGE = 1e-3


@dataclass(frozen=True, slots=True)
class _Problem:
    """What is to be solved: features `[N, F]` in blocks, and rows `[N, H]` they should give."""

    blocks: Sequence[Tensor]
    target: Tensor
    deep: Tensor


@torch.no_grad()
def solve_start(
    network: AdapterNetwork,
    batches: Callable[[], Iterator[FeatureBatch]],
    ended: Callable[[], None],
) -> None:
    """Put the solution into a network that begins as the last middle layer.

    `batches` gives the same batches each time; `ended` is called after each of the two passes.
    """
    if isinstance(network, FedAdapter):
        network.fc.weight.zero_()
        if 2 * network.fc.out_features <= _MAX_WIDTH:
            [feed] = _solved(map(_feed_problem(network), batches()), _FEED_RIDGE)
            network.fc.weight.copy_(feed)
    ended()
    outputs: list[nn.Linear] = [network.self_attn.o_proj]
    if isinstance(network, LayerAdapter):
        outputs.append(network.mlp.down_proj)
    if sum(linear.in_features for linear in outputs) <= _MAX_WIDTH:
        solved = _solved(map(_layer_problem(network), batches()), _LAYER_RIDGE)
        for linear, matrix in zip(outputs, solved, strict=True):
            linear.weight.copy_(matrix)
    ended()


def _feed_problem(network: FedAdapter) -> Callable[[FeatureBatch], _Problem]:
    def problem(batch: FeatureBatch) -> _Problem:
        parts = network.feed_parts(batch.shallow, _previous(batch), batch.fed)
        deep = batch.deep[batch.scored]
        return _Problem([parts[batch.scored]], deep - batch.shallow[batch.scored], deep)

    return problem


def _layer_problem(network: AdapterNetwork) -> Callable[[FeatureBatch], _Problem]:
    def problem(batch: FeatureBatch) -> _Problem:
        rows = batch.shallow
        if isinstance(network, FedAdapter):
            rows = network.feed(rows, _previous(batch), batch.fed)
        blocks = [network.self_attn.mix(network.input_layernorm(rows))[batch.scored]]
        if isinstance(network, LayerAdapter):
            normed = network.post_attention_layernorm(rows[batch.scored])
            blocks.append(network.mlp.hidden(normed))
        deep = batch.deep[batch.scored]
        return _Problem(blocks, deep - rows[batch.scored], deep)

    return problem


def _solved(problems: Iterator[_Problem], ridge: float) -> list[Tensor]:
    """Matrices `[H, F]`, one per block of features, that solve all problems together.

    minimise sum over rows of |target - features @ matrices|^2 / mean(deep^2), plus the ridge times
    the mean of each block's diagonal.
    """
    num_rows, sizes = 0, [0]
    products = rights = torch.zeros((), dtype=torch.float64)
    for problem in problems:
        sizes = [block.shape[1] for block in problem.blocks]
        weights = problem.deep.double().pow(2).mean(-1, keepdim=True).clamp(min=1e-12).rsqrt()
        features = torch.cat(list(problem.blocks), dim=1).double() * weights
        products = products + features.T @ features
        rights = rights + features.T @ (problem.target.double() * weights)
        num_rows += len(features)
        if num_rows >= _ROWS:
            break
    for block in torch.split(torch.arange(sum(sizes), device=products.device), sizes):
        diagonal = products[block, block]
        products[block, block] = diagonal + ridge * diagonal.mean() + 1e-12
    solution = torch.linalg.solve(products, rights).float()
    return [matrix.T for matrix in torch.split(solution, sizes)]


def _previous(batch: FeatureBatch) -> Tensor:
    """Row t is the deep row of position t - 1."""
    return nn.functional.pad(batch.deep[:, :-1], (0, 0, 1, 0))

"""Estimates of a chain's first, second, ... position, for every start of a text at once.

A fed adapter reads the true deep rows before a draft begins, and its own estimates from then on. In
step 1 every position is fed what a device knows there. In step j position t is fed the estimate
that step j - 1 gave at t - 1: it is the j-th of a chain that began at t - j + 1. Up to that start
it sees the keys of step 1, and behind it those of its own chain, which steps 2 to j made.
Source: EAGLE-3 (arXiv:2503.01840), whose training-time test does the same.
"""

import torch
from torch import Tensor

from adapters.data.features import FeatureBatch
from adapters.networks import AdapterNetwork, FedAdapter

_Keys = tuple[Tensor, Tensor]
"""Keys and values `[B, KV, T, D]` of one step."""


def chain_estimates(network: AdapterNetwork, batch: FeatureBatch, num_steps: int) -> list[Tensor]:
    """Estimates `[B, T, H]` of each step. Without a feed all steps are the same, and given once."""
    if not isinstance(network, FedAdapter):
        return [network(batch.shallow)]
    shallow, previous = batch.shallow, _shifted(batch.deep)
    estimates = [network(shallow, previous, batch.fed)]
    steps: list[_Keys] = []
    if num_steps > 1:
        steps.append(_keys(network, network.feed(shallow, previous, batch.fed)))
    is_fed = torch.ones_like(batch.fed)
    while len(estimates) < num_steps:
        rows = network.feed(shallow, _shifted(estimates[-1]), is_fed)
        estimates.append(_one_step(network, rows, steps))
    return estimates


def _one_step(network: FedAdapter, rows: Tensor, steps: list[_Keys]) -> Tensor:
    """Estimates of step `len(steps) + 1`, whose keys are added to those before."""
    attention = network.self_attn
    normed = network.input_layernorm(rows)
    positions = torch.arange(rows.shape[1], device=rows.device)
    queries, keys, values = (p.transpose(1, 2) for p in attention.project(normed, positions))
    steps.append((keys, values))
    mixed = _chain_attention(queries, steps)
    return network.finish(rows + attention.o_proj(mixed.transpose(1, 2).flatten(2)))


def _chain_attention(queries: Tensor, steps: list[_Keys]) -> Tensor:
    """Attention `[B, heads, T, D]` over the text before each chain, and over the chain itself."""
    (text_keys, text_values), chain = steps[0], steps[1:]
    num_rows, num_kv, scale = queries.shape[2], text_keys.shape[1], queries.shape[-1] ** -0.5
    grouped = queries.unflatten(1, (num_kv, -1)) * scale  # type: ignore[no-untyped-call]
    before = torch.ones(num_rows, num_rows, dtype=torch.bool, device=queries.device)
    before = before.tril(-len(chain))
    scores = torch.einsum("bkgtd,bksd->bkgts", grouped, text_keys).masked_fill(
        ~before, float("-inf")
    )
    # Step i made the chain's i-th position, which lies so many before the one of this step.
    moved = [
        (_rolled(keys, len(chain) - i), _rolled(values, len(chain) - i))
        for i, (keys, values) in enumerate(chain, 1)
    ]
    own = [(grouped * keys[:, :, None]).sum(-1, keepdim=True) for keys, _ in moved]
    weights = torch.cat((scores, *own), dim=-1).softmax(-1)
    mixed = torch.einsum("bkgts,bksd->bkgtd", weights[..., :num_rows], text_values)
    for place, (_, values) in enumerate(moved, num_rows):
        mixed = mixed + weights[..., place, None] * values[:, :, None]
    return mixed.flatten(1, 2)


def _keys(network: FedAdapter, rows: Tensor) -> _Keys:
    positions = torch.arange(rows.shape[1], device=rows.device)
    _, keys, values = network.self_attn.project(network.input_layernorm(rows), positions)
    return keys.transpose(1, 2), values.transpose(1, 2)


def _shifted(rows: Tensor) -> Tensor:
    """Row t is that of position t - 1; the first is 0."""
    return torch.nn.functional.pad(rows[:, :-1], (0, 0, 1, 0))


def _rolled(heads: Tensor, places: int) -> Tensor:
    """Position t has what was at `t - places`; the first ones, where no chain is, anything."""
    return heads.roll(places, dims=2) if places else heads

"""Estimates of a chain's first, second, ... position, for every start of a text at once.

A fed adapter reads the true deep rows before a draft begins, and its own estimates from then on. In
step 1 every position is fed what a device knows there. In step j each chain's j-th position is fed
the estimate of step j - 1: up to its start it sees the keys of step 1, and behind it its own.
Source: EAGLE-3 (arXiv:2503.01840), whose training-time test does the same.
"""

import torch
from torch import Tensor

from adapters.data.chain_attention import ChainAttention
from adapters.data.features import FeatureBatch
from adapters.networks import AdapterNetwork, FedAdapter


def chain_estimates(network: AdapterNetwork, batch: FeatureBatch, num_steps: int) -> list[Tensor]:
    """Estimates `[B, T, H]` of each step. Without a feed all steps are the same, and given once.

    In step j position t has that of the chain which began at t - j + 1; the first ones, where no
    chain is, have zeros.
    """
    if not isinstance(network, FedAdapter):
        return [network(batch.shallow)]
    positions = torch.arange(batch.shallow.shape[1], device=batch.shallow.device)
    past, previous = ChainAttention(positions), _moved(batch.deep, 1)
    rows = network.feed(batch.shallow, previous, batch.fed)
    by_start = [network.through(rows, positions, past.read)]
    is_fed = torch.ones_like(batch.fed)
    for step in range(1, num_steps):
        rows = network.feed(_moved(batch.shallow, -step), by_start[-1], is_fed)
        by_start.append(network.through(rows, positions + step, past.go_on))
    return [_moved(rows, step) for step, rows in enumerate(by_start)]


def _moved(rows: Tensor, places: int) -> Tensor:
    """Rows `[B, T, H]` so many places further on, or back; 0 where there were none."""
    num_kept = max(0, rows.shape[1] - abs(places))
    padding = rows.new_zeros(rows.shape[0], rows.shape[1] - num_kept, rows.shape[2])
    if places < 0:
        return torch.cat((rows[:, rows.shape[1] - num_kept :], padding), dim=1)
    return torch.cat((padding, rows[:, :num_kept]), dim=1)

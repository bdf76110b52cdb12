"""What a fed adapter says, from nothing: every row of the text once more, for every estimate."""

from collections.abc import Collection, Mapping

import numpy as np
import torch

from adapters.networks import FedAdapter
from device_runtime.engines.engine import Rows


@torch.inference_mode()
def fed_estimates(
    network: FedAdapter, shallow: Rows, deep: Mapping[int, Rows], drafted: Collection[int]
) -> Rows:
    """Estimates `[T, H]` for shallow rows `[T, H]` from position 0.

    Position t is fed with the deep row of t - 1 where it came down, else with the estimate of
    t - 1 where a draft went on behind it, else with nothing.
    """
    previous, is_known = np.zeros_like(shallow), np.zeros(len(shallow), np.bool_)
    for position in range(1, len(shallow)):
        before = position - 1
        if before in deep:
            previous[position], is_known[position] = deep[before], True
        elif before in drafted:
            so_far = _forward(network, shallow[:position], previous, is_known)
            previous[position], is_known[position] = so_far[before], True
    return _forward(network, shallow, previous, is_known)


def _forward(network: FedAdapter, shallow: Rows, previous: Rows, is_known: np.ndarray) -> Rows:
    end = len(shallow)
    window = (torch.from_numpy(array[:end])[None] for array in (shallow, previous, is_known))
    estimates: Rows = network.forward(*window)[0].numpy()
    return estimates

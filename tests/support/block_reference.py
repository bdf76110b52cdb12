"""What an adapter that drafts blocks says, written out: layer by layer, place by place."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from adapters.networks import BlockAdapter, LayerAdapter
from device_runtime.engines.engine import Rows
from submodels.bundle.layers import Head, rms_norm


@torch.inference_mode()
def block_rows(
    network: BlockAdapter, head: Head, table: Tensor, shallow: Rows, deep: Mapping[int, Rows]
) -> Callable[[Sequence[int]], Rows]:
    """A block behind shallow rows `[T, H]` from position 0, as a function of its tokens.

    It maps the tokens `[n]` at its first places to the logits `[n + 1, V]` of these and one more.
    The text and the block's own rows go through both layers as one causal sequence.
    """
    previous, is_known = np.zeros_like(shallow), np.zeros(len(shallow), np.bool_)
    for position in range(1, len(shallow)):
        if position - 1 in deep:
            previous[position], is_known[position] = deep[position - 1], True
    text = torch.from_numpy(shallow)
    tail = text[-1] * network.carry + network.mask
    num_places = len(tail)
    rows = torch.cat((text, tail))
    before = torch.from_numpy(np.concatenate((previous, previous[-1:].repeat(num_places, 0))))
    known = torch.from_numpy(np.concatenate((is_known, is_known[-1:].repeat(num_places))))
    fed = network.feed(rows, before, known)
    after: Tensor = LayerAdapter.forward(network, network.first(fed[None]))[0]
    final = rms_norm(after[-(num_places + 1) :], head.norm, head.eps)

    @torch.inference_mode()
    def logits(token_ids: Sequence[int]) -> Rows:
        embedded = table[torch.tensor(token_ids, dtype=torch.long)]
        read = network.sequel(final[: len(token_ids) + 1], embedded)
        found: Rows = head.lm_head(read).numpy()
        return found

    return logits

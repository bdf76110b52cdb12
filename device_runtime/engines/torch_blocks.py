"""The head of an adapter that drafts blocks, on torch: the reference."""

import numpy as np
import torch
from torch import Tensor

from adapters.networks import BlockAdapter
from device_runtime.engines.engine import Rows
from submodels.bundle.layers import Head, rms_norm


class TorchBlockHead:
    """A `BlockHead`; `head` is of the tokens that can be drafted, `table` `[V, H]` of all."""

    def __init__(self, network: BlockAdapter, head: Head, table: Tensor) -> None:
        self.block_size = network.block_size
        self.network = network
        self.head = head
        self.table = table

    @torch.inference_mode()
    def begin(self, estimates: Rows) -> "_TorchBlock":
        return _TorchBlock(self, torch.tensor(np.ascontiguousarray(estimates)))


class _TorchBlock:
    def __init__(self, parts: TorchBlockHead, estimates: Tensor) -> None:
        self._parts = parts
        self._final = rms_norm(estimates, parts.head.norm, parts.head.eps)
        self._inner = parts.network.sequel.read(self._final)
        self._state = parts.network.sequel.begin(self._final)
        self._place = 0

    @torch.inference_mode()
    def next(self, token_id: int | None) -> Rows:
        sequel, place = self._parts.network.sequel, self._place
        read = self._final[place]
        if token_id is not None:
            embedded = self._parts.table[token_id].float()
            self._state = sequel.step(self._inner[place], embedded, self._state)
            read = read + sequel.out(self._state)
        self._place += 1
        logits: Rows = self._parts.head.lm_head(read[None])[0].numpy()
        return logits

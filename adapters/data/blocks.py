"""Blocks behind many positions of a text at once, as a device drafts each of them there."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.data.draft_head import DraftHead
from adapters.networks import BlockAdapter

_STARTS_AT_ONCE = 64
"""More of them would take more memory, and no less time."""


@dataclass(frozen=True, slots=True)
class TextRows:
    """What a device knows of a text of `T` tokens: its shallow rows, and deep ones, `[T, H]`.

    Row t of `previous` is the deep row of position t - 1, where `is_known` `[T]` says that it is.
    """

    shallow: Tensor
    previous: Tensor
    is_known: Tensor


class BlockChains:
    """A block behind each of the positions `starts` `[S]`; see `adapters.data.chains.Chains`."""

    def __init__(
        self, network: BlockAdapter, head: DraftHead, text: TextRows, starts: Tensor
    ) -> None:
        self._network = network
        self._head = head
        self._text = text
        self._starts = starts
        self._place = 0
        self._final = self._inner = self._state = torch.empty(0)

    def begin(self) -> Tensor:
        """What the head reads at the blocks' first places."""
        finals = [self._blocks(some) for some in torch.split(self._starts, _STARTS_AT_ONCE)]
        self._final = torch.cat(finals)
        sequel = self._network.sequel
        self._inner, self._state = sequel.read(self._final), sequel.begin(self._final)
        return self._final[:, 0]

    def go_on(self, token_ids: Tensor) -> Tensor:
        """What the head reads at the next place, behind these tokens."""
        self._place += 1
        sequel, embedded = self._network.sequel, self._head.model.embedding[token_ids].float()
        self._state = sequel.step(self._inner[:, self._place], embedded, self._state)
        read: Tensor = self._final[:, self._place] + sequel.out(self._state)
        return read

    def logits(self, rows: Tensor) -> Tensor:
        """Of rows behind the final norm, over the tokens that can be drafted."""
        return self._head.of_final(rows)

    def _blocks(self, starts: Tensor) -> Tensor:
        """All places of some blocks, behind the final norm, `[S, k, H]`."""
        text = self._text
        rows, tails = self._network.forward_blocks(
            text.shallow[None], text.previous[None], text.is_known[None], starts[None]
        )
        return self._head.model.final(torch.cat((rows[0, starts][:, None], tails[0]), dim=1))

"""Blocks drafted behind many positions of a text at once, as a device drafts each of them there."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.data.draft_head import DraftHead
from adapters.networks import BlockAdapter

_STARTS_AT_ONCE = 64
"""More of them would take more memory, and no less time."""

ChoosePlaces = Callable[[Tensor, Tensor], Tensor]
"""Positions `[S]` of the tokens to be chosen and logits `[S, k]` for them, to token ids `[S]`."""


@dataclass(frozen=True, slots=True)
class TextRows:
    """What a device knows of a text of `T` tokens: its shallow rows, and deep ones, `[T, H]`.

    Row t of `previous` is the deep row of position t - 1, where `is_known` `[T]` says that it is.
    """

    shallow: Tensor
    previous: Tensor
    is_known: Tensor


@dataclass(frozen=True, slots=True)
class Blocks:
    """A block of `n` tokens behind each of `S` positions, all tensors `[S, n]`.

    `probabilities` are those of the tokens, `confidences` the largest ones, at temperature 1 over
    the tokens that can be drafted.
    """

    token_ids: Tensor
    probabilities: Tensor
    confidences: Tensor


@torch.inference_mode()
def draft_blocks(
    network: BlockAdapter,
    head: DraftHead,
    text: TextRows,
    starts: Tensor,
    num_tokens: int,
    choose: ChoosePlaces,
) -> Blocks:
    """Blocks behind the positions `starts` `[S]`, of so many tokens or as many as a block has."""
    parts = [
        _draft(network, head, text, some, min(num_tokens, network.block_size), choose)
        for some in torch.split(starts, _STARTS_AT_ONCE)
    ]
    return Blocks(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _draft(
    network: BlockAdapter,
    head: DraftHead,
    text: TextRows,
    starts: Tensor,
    num_tokens: int,
    choose: ChoosePlaces,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, tails = network.forward_blocks(
        text.shallow[None], text.previous[None], text.is_known[None], starts[None]
    )
    final = head.model.final(torch.cat((rows[0, starts][:, None], tails[0]), dim=1))
    inner, state = network.sequel.read(final), network.sequel.begin(final)
    tokens: list[Tensor] = []
    shares: list[Tensor] = []
    tops: list[Tensor] = []
    for place in range(num_tokens):
        read = final[:, place]
        if place:
            embedded = head.model.embedding[tokens[-1]].float()
            state = network.sequel.step(inner[:, place], embedded, state)
            read = read + network.sequel.out(state)
        logits = head.of_final(read)
        tokens.append(choose(starts + place + 1, logits))
        distribution = logits.softmax(-1)
        chosen = head.places[tokens[-1]][:, None]
        share = distribution.gather(-1, chosen.clamp(min=0))[:, 0]
        shares.append(torch.where(chosen[:, 0] >= 0, share, torch.zeros_like(share)))
        tops.append(distribution.amax(-1))
    return torch.stack(tokens, -1), torch.stack(shares, -1), torch.stack(tops, -1)

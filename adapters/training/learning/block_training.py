"""Training of an adapter that drafts blocks, and its drafts along a text.

Blocks behind many positions of a text are run at once. Before a place of a block is judged, the
tokens before it are the text's own, so that the target's distribution there is the one that was
stored.
"""

import numpy as np
import torch
from torch import Tensor

from adapters.data.blocks import TextRows
from adapters.data.chains import draft_blocks
from adapters.data.choosing import greedy
from adapters.data.draft_head import DraftHead
from adapters.data.features import FeatureBatch
from adapters.networks import BlockAdapter
from adapters.options import Recipe
from adapters.training.learning.losses import distances

_ANCHORS = 32
"""Blocks in each text of a step, so that their places cost about as much as the text itself."""
_PLACE_DECAY = 0.5
"""Weight of a place as a share of the one before: about as often is it reached while drafting. (The
steps of a chain are one task, and weigh more; these are as many as there are places.)"""
_UNKNOWN_SHARE = 0.04
"""Of the deep rows that a device knows, so many are left out: a draft that goes on behind guesses
knows none of theirs."""


def block_loss(
    network: BlockAdapter,
    head: DraftHead,
    batch: FeatureBatch,
    recipe: Recipe,
    chance: np.random.Generator,
) -> Tensor:
    """The mean loss over a block's places, those further on with less weight.

    First places count everywhere in the text, the others behind some positions by chance.
    """
    anchors, is_anchor = _anchors(batch.scored, chance)
    unknown = torch.from_numpy(chance.random(tuple(batch.fed.shape)) < _UNKNOWN_SHARE)
    fed = batch.fed & ~unknown.to(batch.fed.device)
    text, tails = network.forward_blocks(batch.shallow, _before(batch.deep), fed, anchors)
    each = torch.arange(len(anchors), device=anchors.device)[:, None]
    blocks = head.model.final(torch.cat((text[each, anchors][:, :, None], tails), dim=2))
    at = _places(anchors, network.block_size, batch)
    embedded = head.model.embedding[batch.token_ids[each[..., None], at[..., 1:]]].float()
    blocks = network.sequel(blocks, embedded)
    # A place is judged where the text goes on as an answer up to it.
    judged = batch.scored[each[..., None], at] & is_anchor[..., None]
    inside = anchors[..., None] + torch.arange(network.block_size, device=at.device) == at
    judged = (judged & inside).cumprod(-1).bool()
    judged[..., 0] = False

    rows = [head.model.final(text[batch.scored])]
    targets = [(batch.likeliest[batch.scored], batch.log_probs[batch.scored])]
    weights = [_even(1.0, int(batch.scored.sum()))]
    for place in range(1, network.block_size):
        chosen = judged[..., place]
        if bool(chosen.any()):
            where = (each.expand_as(anchors)[chosen], at[..., place][chosen])
            rows.append(blocks[:, :, place][chosen])
            targets.append((batch.likeliest[where], batch.log_probs[where]))
            weights.append(_even(_PLACE_DECAY**place, len(where[0])))
    return _weighted_loss(head, torch.cat(rows), targets, torch.cat(weights), recipe)


def block_drafts(
    network: BlockAdapter, head: DraftHead, batch: FeatureBatch, num_tokens: int
) -> tuple[Tensor, Tensor]:
    """The likeliest tokens of a block behind every position, and how likely each is.

    Both `[B, T, num_tokens]`; 0 where a text is not scored, -1 beyond a block.
    """
    shape = (*batch.scored.shape, num_tokens)
    token_ids = torch.zeros(shape, dtype=torch.long, device=batch.scored.device)
    confidences = torch.zeros(shape, dtype=torch.float64, device=batch.scored.device)
    previous = _before(batch.deep)
    for index, scored in enumerate(batch.scored):
        starts = scored.nonzero()[:, 0]
        text = TextRows(batch.shallow[index], previous[index], batch.fed[index])
        blocks = draft_blocks(network, head, text, starts, num_tokens, greedy)
        token_ids[index, starts] = torch.from_numpy(blocks.token_ids).to(starts.device)
        confidences[index, starts] = torch.from_numpy(blocks.confidences).to(starts.device)
    return token_ids, confidences


def _anchors(scored: Tensor, chance: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Positions `[B, A]` where blocks begin, by chance among those scored, and which are real."""
    order = torch.from_numpy(chance.random(tuple(scored.shape))).to(scored.device)
    order = order.masked_fill(~scored, 2.0)
    found = order.topk(min(_ANCHORS, scored.shape[1]), dim=1, largest=False)
    return found.indices, found.values < 2.0


def _places(anchors: Tensor, block_size: int, batch: FeatureBatch) -> Tensor:
    """The positions `[B, A, k]` whose next tokens a block drafts, within the text's length."""
    at = anchors[..., None] + torch.arange(block_size, device=anchors.device)
    return at.clamp(max=batch.scored.shape[1] - 1)


def _even(weight: float, count: int) -> Tensor:
    """A weight shared by so many rows."""
    return torch.full((count,), weight / max(1, count))


def _weighted_loss(
    head: DraftHead,
    final: Tensor,
    targets: list[tuple[Tensor, Tensor]],
    weights: Tensor,
    recipe: Recipe,
) -> Tensor:
    likeliest, log_probs = (torch.cat(parts) for parts in zip(*targets, strict=True))
    apart = distances(head.of_final(final), head.places, likeliest, log_probs)
    losses = recipe.token_weight * apart.cross_entropy
    losses = losses + recipe.variation_weight * (1 - apart.accepted)
    weights = weights.to(losses.device)
    return (losses * weights).sum() / weights.sum().clamp(min=1e-9)


def _before(rows: Tensor) -> Tensor:
    """Row t is that of position t - 1; the first is 0."""
    return torch.nn.functional.pad(rows[:, :-1], (0, 0, 1, 0))

"""How far drafts would get on held-out texts, quickly: every chain of every start at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.data.draft_head import DraftHead
from adapters.data.features import FeatureBatch, FeatureFile
from adapters.networks import AdapterNetwork, BlockAdapter
from adapters.training.learning.block_training import block_drafts
from adapters.training.learning.distillation import output_layers
from adapters.training.learning.self_feeding import chain_estimates


@dataclass(frozen=True, slots=True)
class ChainDrafts:
    """Chains along the texts of a batch, `[B, T, k]`: position j of the chain that starts there.

    They are those of a device as long as every token before was right, which is all that counts
    for acceptance: behind a wrong token nothing is accepted, whatever is drafted there.
    """

    token_ids: Tensor
    confidences: Tensor


@torch.inference_mode()
def chain_drafts(
    network: AdapterNetwork, head: DraftHead, batch: FeatureBatch, num_tokens: int
) -> ChainDrafts:
    """The likeliest tokens of chains, and how likely they are, over the texts' own tokens."""
    if isinstance(network, BlockAdapter):
        return ChainDrafts(*block_drafts(network, head, batch, num_tokens))
    steps = chain_estimates(network, batch, num_tokens)
    drafted = [_drafted(rows, head, batch.within) for rows in steps]
    # An adapter without a feed says the same at a position, wherever the chain began.
    drafted += [drafted[0]] * (num_tokens - len(drafted))
    tokens = [_ahead(token_ids, place) for place, (token_ids, _) in enumerate(drafted)]
    shares = [_ahead(confidences, place) for place, (_, confidences) in enumerate(drafted)]
    return ChainDrafts(torch.stack(tokens, -1), torch.stack(shares, -1))


@torch.inference_mode()
def held_out_tokens_per_round(
    network: AdapterNetwork,
    head: DraftHead,
    features: FeatureFile,
    batches: Sequence[Sequence[int]],
    num_tokens: int,
) -> float:
    """Tokens per round of greedy drafts, as the mean over all starts along the texts.

    The target's likeliest token counts as its choice, also where a text was sampled.
    """
    num_accepted = num_starts = 0
    for indices in batches:
        batch = features.batch(indices, head.weight.device)
        drafted = chain_drafts(network, head, batch, num_tokens).token_ids
        right, scored = torch.ones_like(batch.scored), batch.scored
        for place in range(num_tokens):
            is_same = drafted[..., place] == _ahead(batch.likeliest[..., 0], place)
            right = right & is_same & _ahead(batch.scored, place)
            num_accepted += int((right & scored).sum())
        num_starts += int(scored.sum())
    return 1 + num_accepted / max(1, num_starts)


def _drafted(rows: Tensor, head: DraftHead, within: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest token and its probability at every position `[B, T]`."""
    top = output_layers(head, rows[within].to(head.model.embedding.dtype), within)
    best = head.logits(top).softmax(-1).max(-1)
    token_ids = torch.zeros(within.shape, dtype=torch.long, device=within.device)
    confidences = torch.zeros(within.shape, device=within.device)
    token_ids[within] = head.token_ids[best.indices]
    confidences[within] = best.values
    return token_ids, confidences


def _ahead(values: Tensor, places: int) -> Tensor:
    """Position t has what is at `t + places`; 0 beyond the end."""
    if places == 0:
        return values
    return torch.nn.functional.pad(values[:, places:], (0, min(places, values.shape[1])))

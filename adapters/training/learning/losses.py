"""How far a draft distribution is from the target's, of which the likeliest tokens are known."""

from dataclasses import dataclass

import torch
from torch import Tensor

# What is left for the rest of the vocabulary is never 0, so that its logarithm stays finite.
_LEAST_REST = 1e-6
_IMPOSSIBLE = -1e4
"""A log-probability."""


@dataclass(frozen=True, slots=True)
class Distances:
    """Per row `[N]`."""

    cross_entropy: Tensor
    accepted: Tensor
    """The chance that a draft of that distribution is accepted (Leviathan et al., 2023): the
    common part of both, over the tokens that are known. One less it is the total variation."""


def distances(logits: Tensor, places: Tensor, likeliest: Tensor, log_probs: Tensor) -> Distances:
    """Distances of draft logits `[N, k]` from the target.

    The target is known by its `likeliest` tokens `[N, M]` and their `log_probs`; the rest is one
    bucket. `places` `[V]` says which draft logit a token has; tokens that can't be drafted (-1)
    are in no common part, and the draft can do nothing about them, so that they add nothing to the
    cross-entropy.
    """
    target = log_probs.exp()
    at = places[likeliest]
    can_be_drafted = at >= 0
    own = logits.log_softmax(-1).gather(-1, at.clamp(min=0))
    own = own.masked_fill(~can_be_drafted, _IMPOSSIBLE)
    share = own.exp()
    accepted = torch.minimum(target, share).sum(-1)
    target_rest = (1 - target.sum(-1)).clamp(min=0)
    own_rest = (1 - share.sum(-1)).clamp(min=_LEAST_REST)
    known = torch.where(can_be_drafted, target * own, torch.zeros_like(own)).sum(-1)
    return Distances(-known - target_rest * own_rest.log(), accepted)

"""Rows of numbers instead of tokens, moved by gradients until their states are those that came.

All positions of a sequence at once; then the nearest token of each. It needs the weights of the
layers below the rows, and no list of candidates. Two things decide whether it ends where it should:
where it begins, and that every channel counts alike, since a few are tens of times larger.

Source: continuous inversion (arXiv:2607.00852), ActInv (arXiv:2605.23158).
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hat.audit.attacks.ends import Ends
from hat.audit.attacks.nearest import nearest
from submodels.bundle.layers import LayerCache, run_layers

_LARGEST_STEP: Final = 0.3
"""Of the embedding's root mean square; it falls to 0 as half a cosine."""
_MEMORY: Final = (0.9, 0.95)
"""Of Adam: a short one for squares, as there are few steps."""
_LEAST: Final = 1e-12
"""A distance of nothing has no direction."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What is known of rows before their own are looked at, out of known pairs."""

    codes: Tensor
    """`[T, H]`: where each soft embedding begins; only directions count."""
    spread: Tensor
    """`[H]`: how widely rows are usually spread in each channel."""


@dataclass(frozen=True, slots=True)
class Optimised:
    """The tokens, and how near their soft embeddings came."""

    token_ids: Tensor
    distance: float
    """Of states from rows, in spreads of their channels; mean over rows."""


def optimise(rows: Tensor, ends: Ends, beginning: Beginning, num_steps: int) -> Optimised:
    """Token ids `[T]` of a sequence's rows `[T, H]` from its first position on."""
    table = ends.table
    spread = beginning.spread.clamp_min(1e-3 * float(beginning.spread.mean()))
    soft = normalize(beginning.codes, dim=-1) * table.norm(dim=-1).mean()
    soft = soft.clone().requires_grad_()
    step = float(_LARGEST_STEP * table.square().mean().sqrt())
    optimiser = torch.optim.Adam([soft], lr=step, betas=_MEMORY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, num_steps)
    with torch.enable_grad():
        for _ in range(num_steps):
            optimiser.zero_grad()
            distance = _distances(rows, soft, ends, spread).mean()
            distance.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    found = soft.detach()
    return Optimised(nearest(found, table), float(_distances(rows, found, ends, spread).mean()))


def _distances(rows: Tensor, soft: Tensor, ends: Ends, spread: Tensor) -> Tensor:
    states = run_layers(ends.layers, soft, 0, [LayerCache() for _ in ends.layers])
    return (((states - rows) / spread).square().mean(-1) + _LEAST).sqrt()

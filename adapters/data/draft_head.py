"""The head that drafts: the model's final norm and head, over the tokens that can be drafted."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.data.whole_model import WholeModel


@dataclass(frozen=True, slots=True)
class DraftHead:
    """Frozen rows of the model's head; `token_ids` `[k]` say whose, `places` `[V]` the way back."""

    model: WholeModel
    token_ids: Tensor
    places: Tensor
    """Where each token of the vocabulary is among those; -1: it can't be drafted."""
    weight: Tensor
    bias: Tensor | None

    def logits(self, top: Tensor) -> Tensor:
        """float32 logits `[..., k]` of top rows `[..., H]`."""
        return self.of_final(self.model.final(top))

    def of_final(self, final: Tensor) -> Tensor:
        """The same of rows that are behind the final norm."""
        return torch.nn.functional.linear(final, self.weight, self.bias).float()


def draft_head(model: WholeModel, vocabulary: NDArray[np.int32] | None) -> DraftHead:
    """The head for a draft vocabulary of ascending token ids; None is the whole vocabulary."""
    weight, bias = model.head.lm_head.weight, model.head.lm_head.bias
    everything = torch.arange(weight.shape[0], device=weight.device)
    if vocabulary is None:
        return DraftHead(model, everything, everything, weight, bias)
    ids = torch.from_numpy(vocabulary).long().to(weight.device)
    places = torch.full_like(everything, -1)
    places[ids] = torch.arange(len(ids), device=weight.device)
    rows = weight[ids]
    return DraftHead(model, ids, places, rows, None if bias is None else bias[ids])

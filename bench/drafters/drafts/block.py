"""Drafts of an adapter that makes blocks, from every place of a text."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.data.blocks import Blocks, TextRows, draft_blocks
from adapters.data.draft_head import DraftHead, draft_head
from adapters.data.whole_model import WholeModel
from adapters.networks import BlockAdapter
from bench.drafters.texts.choosing import Choice
from submodels.bundle.layers import LayerCache, embed, run_layers


class BlockDrafts:
    """The network of an adapter beside the model; `ids` `[k]` can be drafted, None: all."""

    def __init__(
        self, model: WholeModel, network: BlockAdapter, ids: NDArray[np.int32] | None
    ) -> None:
        self._model = model
        self._network = network
        self._vocabulary = None if ids is None else torch.from_numpy(ids).long()
        self._head: DraftHead = draft_head(model, ids)

    def drafts(
        self,
        token_ids: Sequence[int],
        starts: Tensor,
        deep: Tensor,
        choose: Choice,
        num_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        """Tokens and confidences `[S, num_tokens]`; beyond a block there are none, and -1.

        `deep` `[S, H]` are the rows of the positions before each start, which came down.
        """
        model, rows = self._model, embed(self._model.embedding, token_ids)
        caches = [LayerCache() for _ in model.input_layers]
        shallow = run_layers(model.input_layers, rows, 0, caches)
        previous = torch.zeros_like(shallow)
        previous[starts] = deep
        text = TextRows(shallow, previous, torch.arange(len(token_ids)) >= starts[0])

        def chosen(positions: Tensor, logits: Tensor) -> Tensor:
            return choose(positions, logits, self._vocabulary)

        blocks: Blocks = draft_blocks(self._network, self._head, text, starts, num_tokens, chosen)
        missing = (0, num_tokens - blocks.token_ids.shape[1])
        return (
            torch.nn.functional.pad(blocks.token_ids, missing, value=-1),
            torch.nn.functional.pad(blocks.confidences, missing, value=-1.0),
        )

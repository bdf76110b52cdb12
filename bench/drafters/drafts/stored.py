"""Drafts of an adapter or an imported head from every place of a text, as the device makes them."""

from pathlib import Path

import numpy as np
import torch

from adapters.data.chains import Continuation, Drafts
from adapters.data.choosing import Choice
from adapters.data.whole_model import WholeModel
from adapters.measuring.drafters import load_drafter
from adapters.storage import AdapterCard, load_adapter
from bench.drafters.texts.kept import Text


class StoredDrafter:
    """An adapter or imported head in float32, for the model that it is for.

    Raises:
        AdapterError: none in the folder, or one for another model or split.
    """

    def __init__(self, model: WholeModel, folder: Path) -> None:
        stored = load_adapter(folder, model.manifest)
        self.card: AdapterCard = stored.card
        self._drafter = load_drafter(model, stored)

    @property
    def num_parameters(self) -> int:
        """Of the adapter or head."""
        return self._drafter.num_parameters

    def drafts(self, text: Text, choose: Choice, num_tokens: int) -> Drafts:
        """A draft of `num_tokens` behind every token of the answer but the last."""
        return self._drafter.drafts(_continuation(text), num_tokens, choose)


def _continuation(text: Text) -> Continuation:
    """What is known of a text; of a prompt's deep rows only the last one matters."""
    token_ids = [*text.case.token_ids, *text.answer]
    num_prompt_tokens = len(text.case.token_ids)
    deep = torch.zeros(len(token_ids), text.deep.shape[1])
    deep[num_prompt_tokens - 1 : -1] = torch.from_numpy(text.deep)
    return Continuation(token_ids, num_prompt_tokens, deep, np.zeros(len(token_ids)))

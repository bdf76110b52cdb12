"""Drafts of an imported head from every place of a text, each as the device would make it there."""

from pathlib import Path

import torch

from adapters.data.chains import Choose
from adapters.data.whole_model import WholeModel
from adapters.measuring.drafters import HeadDrafter
from adapters.storage import AdapterCard, load_adapter, load_card
from bench.drafters.drafts.network import NetworkDrafter, NetworkDrafts
from bench.drafters.texts.choosing import Choice
from bench.drafters.texts.kept import Text


class PublishedDrafter:
    """An imported head in float32, for the model that it was imported for.

    Raises:
        AdapterError: no adapter there, or one for another model or split.
    """

    def __init__(self, model: WholeModel, folder: Path) -> None:
        stored = load_adapter(folder, model.manifest)
        self.card: AdapterCard = stored.card
        self._head = HeadDrafter(model, stored)

    @property
    def num_parameters(self) -> int:
        """Of the head."""
        return self._head.num_parameters

    def drafts(self, text: Text, choose: Choice, num_tokens: int) -> NetworkDrafts:
        """A draft of `num_tokens` behind every token of the answer but the last."""
        token_ids = [*text.case.token_ids, *text.answer]
        num_prompt_tokens = len(text.case.token_ids)
        drafts = self._head.drafts_along(
            token_ids, num_prompt_tokens, num_tokens, _one_by_one(choose)
        )
        return NetworkDrafts(drafts.token_ids, drafts.confidences)


def stored_drafter(model: WholeModel, folder: Path) -> NetworkDrafter | PublishedDrafter:
    """The adapter or imported head in a folder.

    Raises:
        AdapterError: none there, or one for another model or split.
    """
    if load_card(folder).head is not None:
        return PublishedDrafter(model, folder)
    return NetworkDrafter(model, folder)


def _one_by_one(choice: Choice) -> Choose:
    return lambda position, logits: int(choice(torch.tensor([position]), logits[None])[0])

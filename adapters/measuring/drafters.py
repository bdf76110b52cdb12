"""What drafts along a known text: an adapter that was trained here, or a head that was imported."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from adapters.data.chain_attention import ChainAttention
from adapters.data.chains import Continuation, Drafts, draft_everywhere, drafted, starts_of
from adapters.data.choosing import Choice
from adapters.data.draft_head import draft_head
from adapters.data.whole_model import WholeModel
from adapters.head_networks import EagleHead, HeadNetwork, load_published_head
from adapters.networks import AdapterNetwork, load_network
from adapters.storage import StoredAdapter
from submodels.bundle.layers import LayerCache, embed

# As many rows of the text at once: attention over all would also compute the half that is masked.
_CHUNK_TOKENS = 256


class Drafter(Protocol):
    """A stored adapter with the model that it drafts for."""

    @property
    def num_parameters(self) -> int:
        """Of the adapter alone."""
        ...

    def drafts(self, text: Continuation, num_tokens: int, choose: Choice) -> Drafts:
        """What the device drafts behind every token of an answer but the last."""
        ...


def load_drafter(model: WholeModel, stored: StoredAdapter, device: str = "cpu") -> Drafter:
    """The drafter of a stored adapter of any kind."""
    if stored.card.head is not None:
        return HeadDrafter(model, stored, device)
    return AdapterDrafter(model, stored, device)


class AdapterDrafter:
    """An adapter that was trained here."""

    def __init__(self, model: WholeModel, stored: StoredAdapter, device: str = "cpu") -> None:
        self._model = model
        self._network: AdapterNetwork = load_network(stored, device)
        self._head = draft_head(model, stored.draft_vocabulary())

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self._network.parameters())

    def drafts(self, text: Continuation, num_tokens: int, choose: Choice) -> Drafts:
        return draft_everywhere(self._model, self._network, text, num_tokens, choose, self._head)


class HeadDrafter:
    """An imported head, told what it is told on the device.

    That is the features of every position that came down: of a prompt the last one's, or all with
    output layers on the device.
    """

    def __init__(self, model: WholeModel, stored: StoredAdapter, device: str = "cpu") -> None:
        assert stored.card.head is not None, "an imported head"
        self._model = model
        self._network: HeadNetwork = load_published_head(stored, device)
        self._depths = stored.card.head.depths
        self._vocabulary = draft_head(model, stored.draft_vocabulary()).token_ids

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self._network.parameters())

    @torch.inference_mode()
    def drafts(self, text: Continuation, num_tokens: int, choose: Choice) -> Drafts:
        starts = starts_of(text)
        # Positions without a feature are left out, and the others numbered from 0.
        origin = 1 if self._model.output_layers else text.num_prompt_tokens
        features = self._features(text.token_ids)
        known = _Known(text.token_ids[origin:-1], features[origin - 1 : -2], starts - origin)
        chains = _HeadChains(self._model, self._network, known)
        return drafted(chains, starts, self._vocabulary, num_tokens, choose)

    def _features(self, token_ids: Sequence[int]) -> Tensor:
        """What the head is told of each position `[T, H]`."""
        rows = rows_after(self._model, token_ids, self._depths)
        if isinstance(self._network, EagleHead):
            return self._model.final(rows[0]).float()
        return self._network.fuse(torch.cat(rows, dim=-1).float())


@dataclass(frozen=True, slots=True)
class _Known:
    """What a head is told of a text."""

    token_ids: Sequence[int]
    features: Tensor
    """Those of the positions before the tokens, `[T, H]`."""
    starts: Tensor
    """Where among them chains begin, `[S]`."""


class _HeadChains:
    """A head over what is known of a text, and over its own estimates behind that."""

    def __init__(self, model: WholeModel, network: HeadNetwork, known: _Known) -> None:
        self._model = model
        self._network = network
        self._known = known
        self._past = ChainAttention(known.starts)
        self._positions = known.starts
        self._estimates = torch.empty(0)

    def begin(self) -> Tensor:
        known = self._known
        embedded = embed(self._model.embedding, known.token_ids).float()
        positions = torch.arange(len(embedded), device=embedded.device)
        estimates = self._network.through(embedded, known.features, positions, self._past.read)
        self._estimates = estimates[known.starts]
        return self._estimates

    def go_on(self, token_ids: Tensor) -> Tensor:
        self._positions = self._positions + 1
        embedded = self._model.embedding[token_ids].float()
        self._estimates = self._network.through(
            embedded, self._estimates, self._positions, self._past.go_on
        )
        return self._estimates

    def logits(self, rows: Tensor) -> Tensor:
        if isinstance(self._network, EagleHead):
            return self._model.head.lm_head(rows.to(self._model.embedding.dtype)).float()
        return self._network.logits(rows)


@torch.inference_mode()
def rows_after(model: WholeModel, token_ids: Sequence[int], depths: Sequence[int]) -> list[Tensor]:
    """The model's rows `[T, H]` of a whole text after so many layers, one tensor for each depth."""
    layers = (*model.input_layers, *model.middle_layers, *model.output_layers)
    caches = [LayerCache() for _ in layers]
    parts: list[list[Tensor]] = [[] for _ in depths]
    for start in range(0, len(token_ids), _CHUNK_TOKENS):
        rows = embed(model.embedding, token_ids[start : start + _CHUNK_TOKENS])
        by_depth = [rows]
        for layer, cache in zip(layers, caches, strict=True):
            rows = layer.forward(rows, start, cache)
            by_depth.append(rows)
        for part, depth in zip(parts, depths, strict=True):
            part.append(by_depth[depth])
    return [torch.cat(part) for part in parts]

"""What drafts along a known text: an adapter that was trained here, or a head that was imported."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from adapters.data.chains import Choose, Continuation, Drafts, draft_everywhere
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

    def drafts(self, text: Continuation, num_tokens: int, choose: Choose) -> Drafts:
        """A draft of `num_tokens` behind every token of the answer but the last, as on the device.

        Draft s follows token `num_prompt_tokens + s`: an answer's first token comes with the
        prompt, and nobody drafts it.
        """
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

    def drafts(self, text: Continuation, num_tokens: int, choose: Choose) -> Drafts:
        whole = draft_everywhere(self._model, self._network, text, num_tokens, choose, self._head)
        # The first of these is for the answer's first token.
        return Drafts(whole.token_ids[1:], whole.probabilities[1:], whole.confidences[1:])


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
        ids = stored.draft_vocabulary()
        self._token_ids = None if ids is None else torch.from_numpy(ids).long().to(device)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self._network.parameters())

    def drafts(self, text: Continuation, num_tokens: int, choose: Choose) -> Drafts:
        return self.drafts_along(text.token_ids, text.num_prompt_tokens, num_tokens, choose)

    @torch.inference_mode()
    def drafts_along(
        self, token_ids: Sequence[int], num_prompt_tokens: int, num_tokens: int, choose: Choose
    ) -> Drafts:
        """See `Drafter.drafts`; the rows that the head reads are made of the tokens."""
        first = num_prompt_tokens
        features = self._features(token_ids)
        past = _Past(LayerCache(), 1 if self._model.output_layers else first)
        if past.origin < first:
            known = self._embedded(token_ids[past.origin : first])
            self._network.extend(known, 0, past.cache, features[past.origin - 1 : first - 1])
        drafts = []
        for at in range(first, len(token_ids) - 1):
            feature, behind = features[at - 1 : at], (token_ids[at], at)
            drafts.append(self._chain(behind, feature, past, num_tokens, choose))
        shaped = np.array(drafts, np.float64).reshape(-1, num_tokens, 3)
        return Drafts(shaped[..., 0].astype(np.int64), shaped[..., 1], shaped[..., 2])

    def _chain(
        self,
        behind: tuple[int, int],
        feature: Tensor,
        past: "_Past",
        num_tokens: int,
        choose: Choose,
    ) -> list[tuple[int, float, float]]:
        """Tokens behind a token and its position, each with its and the largest probability."""
        token, position = behind
        drafted = []
        for at in range(position, position + num_tokens):
            embedded = self._embedded([token])
            feature = self._network.extend(embedded, at - past.origin, past.cache, feature)
            logits = self._logits(feature)
            token = choose(at + 1, logits)
            distribution = logits.softmax(-1)
            drafted.append((token, float(distribution[token]), float(distribution.max())))
        return drafted

    def _logits(self, estimate: Tensor) -> Tensor:
        """`[V]`, minus infinity for tokens that the head does not know."""
        if isinstance(self._network, EagleHead):
            own = self._model.head.lm_head
            return torch.nn.functional.linear(estimate, own.weight, own.bias)[0].float()
        logits = self._network.logits(estimate)[0]
        if self._token_ids is None:
            return logits
        whole = logits.new_full((self._model.manifest.shape.vocab_size,), -torch.inf)
        return whole.index_copy(0, self._token_ids, logits)

    def _embedded(self, token_ids: Sequence[int]) -> Tensor:
        return embed(self._model.embedding, token_ids).float()

    def _features(self, token_ids: Sequence[int]) -> Tensor:
        """What the head is told of each position `[T, H]`."""
        rows = rows_after(self._model, token_ids, self._depths)
        if isinstance(self._network, EagleHead):
            return self._model.final(rows[0]).float()
        return self._network.fuse(torch.cat(rows, dim=-1).float())


@dataclass(frozen=True, slots=True)
class _Past:
    """What a head remembers of a text from position `origin` on, the first that has a feature."""

    cache: LayerCache
    origin: int


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

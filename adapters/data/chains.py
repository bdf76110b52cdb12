"""Drafts as the device makes them, from every position of what the target itself writes.

The layers that draft read the text once, with what the device knows of it by then; a chain from
each place then goes on token by token, all chains side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.data.blocks import BlockChains, TextRows
from adapters.data.chain_attention import ChainAttention
from adapters.data.choosing import Choice
from adapters.data.draft_head import DraftHead, draft_head
from adapters.data.whole_model import WholeModel
from adapters.networks import AdapterNetwork, BlockAdapter, FedAdapter
from submodels.bundle.layers import DecoderLayer, embed

_ROWS_AT_ONCE = 128
"""Of logits, which are as wide as the vocabulary."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """A prompt and what the target wrote after it.

    `deep` `[N, H]` has a row for every token. `probabilities[i]` is what the target gave
    `token_ids[i]` at temperature 1 (0 within the prompt).
    """

    token_ids: Sequence[int]
    num_prompt_tokens: int
    deep: Tensor
    probabilities: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Drafts:
    """One draft of `k` tokens from each of `S` starts, all arrays `[S, k]`.

    Draft `s` follows token `num_prompt_tokens + s` of its continuation: an answer's first token
    comes with the prompt, and nobody drafts it. `probabilities` are the draft model's for its own
    tokens, `confidences` its largest, at temperature 1 and over the tokens that can be drafted.
    """

    token_ids: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    confidences: NDArray[np.float64]

    def until_unsure(self, threshold: float) -> list[tuple[int, ...]]:
        """Each draft up to the first token that is less likely than the threshold."""
        lengths = np.cumprod(self.confidences >= threshold, axis=1).sum(1)
        pairs = zip(self.token_ids.tolist(), lengths.tolist(), strict=True)
        return [tuple(token_ids[:length]) for token_ids, length in pairs]


def starts_of(text: Continuation) -> Tensor:
    """Every position of the answer but the last, whose tokens drafts follow."""
    end = max(text.num_prompt_tokens, len(text.token_ids) - 1)
    return torch.arange(text.num_prompt_tokens, end, device=text.deep.device)


@torch.inference_mode()
def read_text(model: WholeModel, token_ids: Sequence[int], num_prompt_tokens: int) -> Continuation:
    """A text that is there already, and what the target makes of it."""
    sequence, deep, shares = model.sequence(), [], [torch.zeros(num_prompt_tokens)]
    for start in range(0, len(token_ids), _ROWS_AT_ONCE):
        states = sequence.extend(token_ids[start : start + _ROWS_AT_ONCE], start)
        deep.append(states.deep)
        first, end = (
            max(start, num_prompt_tokens - 1),
            min(start + len(states.top), len(token_ids) - 1),
        )
        if first < end:
            following = torch.tensor(token_ids[first + 1 : end + 1], device=states.top.device)
            logits = model.head(states.top[first - start : end - start]).float()
            shares.append(logits.softmax(-1).gather(1, following[:, None])[:, 0].cpu())
    return Continuation(
        token_ids, num_prompt_tokens, torch.cat(deep), torch.cat(shares).double().numpy()
    )


class Chains(Protocol):
    """Chains of drafts from `S` places of a text, side by side."""

    def begin(self) -> Tensor:
        """A row `[S, H]` for the first token of each."""
        ...

    def go_on(self, token_ids: Tensor) -> Tensor:
        """A row `[S, H]` for the next token of each, behind these `[S]`."""
        ...

    def logits(self, rows: Tensor) -> Tensor:
        """float32 logits `[N, k]` of rows `[N, H]`, over the tokens that can be drafted."""
        ...


@torch.inference_mode()
def drafted(
    chains: Chains, starts: Tensor, vocabulary: Tensor, num_tokens: int, choose: Choice
) -> Drafts:
    """Drafts of `num_tokens` behind the positions `starts` `[S]`.

    `vocabulary` `[k]` are the tokens that can be drafted, ascending.
    """
    if len(starts) == 0 or num_tokens == 0:
        empty = np.empty((len(starts), num_tokens))
        return Drafts(empty.astype(np.int64), empty, empty)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    rows = chains.begin()
    for step in range(num_tokens):
        positions = starts + step + 1
        parts = [
            _chosen(chains.logits(some), at, vocabulary, choose)
            for some, at in zip(
                torch.split(rows, _ROWS_AT_ONCE), torch.split(positions, _ROWS_AT_ONCE), strict=True
            )
        ]
        token_ids, own, largest = (torch.cat(part) for part in zip(*parts, strict=True))
        steps.append((token_ids, own, largest))
        if step + 1 < num_tokens:
            rows = chains.go_on(token_ids)
    token_ids, own, largest = (torch.stack(part, 1).cpu() for part in zip(*steps, strict=True))
    return Drafts(token_ids.numpy(), own.double().numpy(), largest.double().numpy())


def _chosen(
    logits: Tensor, positions: Tensor, vocabulary: Tensor, choose: Choice
) -> tuple[Tensor, Tensor, Tensor]:
    """The next token of each chain, its probability, and the largest one there, each `[N]`."""
    token_ids, shares = choose(positions, logits, vocabulary), logits.softmax(-1)
    places = torch.searchsorted(vocabulary, token_ids).clamp(max=len(vocabulary) - 1)
    can_be_drafted = vocabulary[places] == token_ids
    own = shares.gather(1, places[:, None])[:, 0] * can_be_drafted
    return token_ids, own, shares.amax(-1)


def draft_everywhere(
    model: WholeModel,
    adapter: AdapterNetwork,
    text: Continuation,
    num_tokens: int,
    choose: Choice,
    head: DraftHead | None = None,
) -> Drafts:
    """An adapter's draft of `num_tokens` after every token of an answer but the last.

    `head` says which tokens can be drafted; None: all. A fed adapter is fed no deep row of the
    prompt but its last.
    """
    head = head or draft_head(model, None)
    starts = starts_of(text)
    chains = _AdapterChains(adapter, head, text, starts)
    if isinstance(adapter, BlockAdapter):
        return draft_blocks(adapter, head, chains.known(), starts, num_tokens, choose)
    return drafted(chains, starts, head.token_ids, num_tokens, choose)


@torch.inference_mode()
def draft_blocks(
    adapter: BlockAdapter,
    head: DraftHead,
    text: TextRows,
    starts: Tensor,
    num_tokens: int,
    choose: Choice,
) -> Drafts:
    """Blocks behind the positions `starts` `[S]` of a text.

    Beyond a block there are no tokens: they and their confidences are -1.
    """
    chains = BlockChains(adapter, head, text, starts)
    num_places = min(num_tokens, adapter.block_size)
    blocks = drafted(chains, starts, head.token_ids, num_places, choose)
    missing = ((0, 0), (0, num_tokens - num_places))
    return Drafts(
        np.pad(blocks.token_ids, missing, constant_values=-1),
        np.pad(blocks.probabilities, missing),
        np.pad(blocks.confidences, missing, constant_values=-1.0),
    )


class _AdapterChains:
    """Input layers, adapter and output layers over a text and the chains from its starts `[S]`.

    Input layers and adapter see true shallow rows up to a chain's start. Output layers see the
    target's deep rows before it, and estimates from there on.
    """

    def __init__(
        self, adapter: AdapterNetwork, head: DraftHead, text: Continuation, starts: Tensor
    ) -> None:
        self._model = model = head.model
        self._adapter = adapter
        self._head = head
        self._text = text
        self._starts = starts
        self._positions = torch.arange(len(text.token_ids) - 1, device=starts.device)
        self._num_steps = 0
        self._estimates = torch.empty(0)
        self._inputs = [(one, ChainAttention(starts, one.window)) for one in model.input_layers]
        self._own = ChainAttention(starts)
        self._outputs = [
            (one, ChainAttention(starts - 1, one.window)) for one in model.output_layers
        ]

    def begin(self) -> Tensor:
        """Top rows `[S, H]` at the starts."""
        known = self.known()
        rows, positions = known.shallow, self._positions
        if isinstance(self._adapter, FedAdapter):
            rows = self._adapter.feed(rows, known.previous, known.is_known)
        self._estimates = self._adapter.through(rows, positions, self._own.read)[self._starts]
        _read(self._outputs, self._text.deep[:-1], positions)
        return self._top()

    @torch.inference_mode()
    def known(self) -> TextRows:
        """What the device knows of the text; the input layers keep what they saw."""
        rows, deep = embed(self._model.embedding, self._text.token_ids[:-1]), self._text.deep
        return TextRows(
            _read(self._inputs, rows, self._positions).float(),
            torch.nn.functional.pad(deep[:-2].float(), (0, 0, 1, 0)),
            self._positions >= self._text.num_prompt_tokens,
        )

    def go_on(self, token_ids: Tensor) -> Tensor:
        """Top rows `[S, H]` after one more token of every chain."""
        self._num_steps += 1
        positions = self._starts + self._num_steps
        shallow = _go_on(self._inputs, self._model.embedding[token_ids], positions).float()
        if isinstance(self._adapter, FedAdapter):
            is_known = torch.ones_like(positions, dtype=torch.bool)
            shallow = self._adapter.feed(shallow, self._estimates, is_known)
        self._estimates = self._adapter.through(shallow, positions, self._own.go_on)
        return self._top()

    def logits(self, rows: Tensor) -> Tensor:
        """Of top rows, over the tokens that can be drafted."""
        return self._head.logits(rows)

    def _top(self) -> Tensor:
        rows = self._estimates.to(self._model.embedding.dtype)
        return _go_on(self._outputs, rows, self._starts + self._num_steps)


_Layers = Sequence[tuple[DecoderLayer, ChainAttention]]


def _read(layers: _Layers, rows: Tensor, positions: Tensor) -> Tensor:
    for layer, past in layers:
        rows = layer.through(rows, positions, past.read)
    return rows


def _go_on(layers: _Layers, rows: Tensor, positions: Tensor) -> Tensor:
    for layer, past in layers:
        rows = layer.through(rows, positions, past.go_on)
    return rows

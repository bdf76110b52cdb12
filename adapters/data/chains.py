"""Drafts as the device makes them, from every position of what the target itself writes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.data.blocks import TextRows, draft_blocks
from adapters.data.draft_head import DraftHead, draft_head
from adapters.data.whole_model import WholeModel
from adapters.networks import Adapter, BlockAdapter, FedAdapter
from submodels.bundle.layers import LayerCache, embed, run_layers

Choose = Callable[[int, Tensor], int]
"""Position of the token to be chosen and logits `[V]` for it, to a token id."""


def greedy(position: int, logits: Tensor) -> int:
    """The most likely token."""
    return int(logits.argmax())


@dataclass(frozen=True, slots=True)
class Coupled:
    """A sampled token at temperature 1, with noise that depends on seed and position alone.

    Draft and target choose argmin E / p with the same unit exponentials E, the rule by which the
    device samples. Source: Daliri et al., 2024 (arXiv:2408.07978).
    """

    seed: int

    def __call__(self, position: int, logits: Tensor) -> int:
        noise = np.random.Generator(np.random.Philox([self.seed, position]))
        exponentials = noise.standard_exponential(logits.shape[-1])
        return int(np.argmax(logits.double().cpu().numpy() - np.log(exponentials)))


@dataclass(frozen=True, slots=True)
class Forced:
    """The token that a given text has at the position."""

    token_ids: Sequence[int]

    def __call__(self, position: int, logits: Tensor) -> int:
        return self.token_ids[position]


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

    Draft `s` follows token `num_prompt_tokens - 1 + s` of its continuation. `probabilities` are
    the draft model's for its own tokens, `confidences` its largest, both at temperature 1.
    """

    token_ids: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    confidences: NDArray[np.float64]


@torch.inference_mode()
def continue_prompt(
    model: WholeModel,
    prompt: Sequence[int],
    max_tokens: int,
    choose: Choose,
    stop_token_ids: frozenset[int],
) -> Continuation:
    """What the whole model writes after a prompt, up to and without a stop token."""
    sequence = model.sequence()
    token_ids, probabilities = list(prompt), [0.0] * len(prompt)
    states = sequence.extend(token_ids, 0)
    deep = [states.deep]
    for _ in range(max_tokens):
        logits = model.head(states.top[-1:])[0].float()
        token = choose(len(token_ids), logits)
        if token in stop_token_ids:
            break
        probabilities.append(float(logits.softmax(-1)[token]))
        states = sequence.extend([token], len(token_ids))
        token_ids.append(token)
        deep.append(states.deep)
    return Continuation(token_ids, len(prompt), torch.cat(deep), np.array(probabilities))


@torch.inference_mode()
def draft_everywhere(
    model: WholeModel,
    adapter: Adapter,
    text: Continuation,
    num_tokens: int,
    choose: Choose,
    head: DraftHead | None = None,
) -> Drafts:
    """A draft of `num_tokens` after the prompt and after every later token but the last.

    `head` says which tokens can be drafted; None: all. A fed adapter is fed no deep row of the
    prompt but its last.

    Without output layers and without a feed a draft's logits depend on its tokens alone. A draft
    whose first token is the text's own is then that token and the draft that starts behind it, and
    is not run again. A block adapter drafts all its blocks side by side.
    """
    if isinstance(adapter, BlockAdapter):
        return _draft_blocks(model, adapter, text, num_tokens, choose, head)
    drafting = _DraftModel(model, adapter, head or draft_head(model, None))
    first, last = text.num_prompt_tokens - 1, len(text.token_ids) - 2
    drafting.accept(text.token_ids[:first], text.deep[:first])
    drafts: list[list[_Drafted]] = []
    for position in range(first, last + 1):
        is_alone = not model.output_layers and not isinstance(adapter, FedAdapter)
        can_share = is_alone and position < last
        shared = text.token_ids[position + 1] if can_share else None
        drafts.append(
            drafting.draft(text.token_ids[position], position, num_tokens, choose, shared)
        )
        drafting.take_deep(text.deep[position : position + 1], position)
    for draft, following in zip(reversed(drafts[:-1]), reversed(drafts[1:]), strict=True):
        draft.extend(following[: num_tokens - len(draft)])
    shaped = np.array(drafts, np.float64).reshape(-1, num_tokens, 3)
    return Drafts(shaped[..., 0].astype(np.int64), shaped[..., 1], shaped[..., 2])


def _draft_blocks(
    model: WholeModel,
    adapter: BlockAdapter,
    text: Continuation,
    num_tokens: int,
    choose: Choose,
    head: DraftHead | None,
) -> Drafts:
    """The same of blocks: tokens beyond a block are -1, which nobody accepts."""
    head = head or draft_head(model, None)
    first, last = text.num_prompt_tokens - 1, len(text.token_ids) - 2
    rows = embed(model.embedding, text.token_ids)
    caches = [LayerCache() for _ in model.input_layers]
    shallow = run_layers(model.input_layers, rows, 0, caches).float()
    positions = torch.arange(len(text.token_ids), device=rows.device)
    previous = torch.nn.functional.pad(text.deep[:-1].float(), (0, 0, 1, 0))
    known = TextRows(shallow, previous, positions > first)
    whole = rows.new_full((model.manifest.shape.vocab_size,), -torch.inf)

    def choose_all(places: Tensor, logits: Tensor) -> Tensor:
        chosen = [
            choose(place, whole.index_copy(0, head.token_ids, row))
            for place, row in zip(places.tolist(), logits, strict=True)
        ]
        return torch.tensor(chosen, device=logits.device)

    blocks = draft_blocks(adapter, head, known, positions[first : last + 1], num_tokens, choose_all)
    missing = (0, num_tokens - blocks.token_ids.shape[1])
    return Drafts(
        torch.nn.functional.pad(blocks.token_ids, missing, value=-1).cpu().numpy(),
        torch.nn.functional.pad(blocks.probabilities, missing).double().cpu().numpy(),
        torch.nn.functional.pad(blocks.confidences, missing).double().cpu().numpy(),
    )


_Drafted = tuple[int, float, float]
"""A drafted token, its probability, and the largest one there."""


class _DraftModel:
    """Input submodel, adapter and output submodel over one sequence, each with its caches.

    The adapter's cache holds true shallow rows of accepted positions. The output layers' cache
    holds the target's deep rows there, and estimates only where nothing better is known.
    """

    def __init__(self, model: WholeModel, adapter: Adapter, head: DraftHead) -> None:
        self._model = model
        self._adapter = adapter
        self._head = head
        self._previous: Tensor | None = None
        """The row `[1, H]` that a fed adapter is fed next: true, or its own estimate."""
        self._input_caches = [LayerCache() for _ in model.input_layers]
        self._adapter_cache = LayerCache()
        self._output_caches = [LayerCache() for _ in model.output_layers]

    def accept(self, token_ids: Sequence[int], deep: Tensor) -> None:
        """Take the beginning of a sequence whose deep rows are known to the output layers.

        A fed adapter is fed none of a prompt's.
        """
        if token_ids:
            self._adapter.extend(self._shallow(token_ids, 0), 0, self._adapter_cache)
            self.take_deep(deep, 0)
            self._previous = None

    def take_deep(self, deep: Tensor, position: int) -> None:
        """Put deep rows from the target in the place of estimates, and forget what follows."""
        run_layers(self._model.output_layers, deep, position, self._output_caches)
        self._previous = deep[-1:].float()

    def draft(
        self, token: int, position: int, num_tokens: int, choose: Choose, shared: int | None
    ) -> list[_Drafted]:
        """`num_tokens` drafted after `token`, or only the first of them if it is `shared`."""
        drafted: list[_Drafted] = []
        for at in range(position, position + num_tokens):
            logits = self._logits(token, at)
            token = choose(at + 1, logits)
            distribution = logits.softmax(-1)
            drafted.append((token, float(distribution[token]), float(distribution.max())))
            if len(drafted) == 1 and token == shared:
                break
        return drafted

    def _logits(self, token: int, position: int) -> Tensor:
        """The draft model's next-token logits `[V]` after `token` at `position`."""
        shallow = self._shallow([token], position)
        estimate = self._estimate(shallow, position)
        rows = estimate.to(self._model.embedding.dtype)
        layers = self._model.output_layers
        top = run_layers(layers, rows, position, self._output_caches)
        logits = self._head.logits(top)[0]
        whole = logits.new_full((self._model.manifest.shape.vocab_size,), -torch.inf)
        return whole.index_copy(0, self._head.token_ids, logits)

    def _estimate(self, shallow: Tensor, position: int) -> Tensor:
        if not isinstance(self._adapter, FedAdapter):
            return self._adapter.extend(shallow, position, self._adapter_cache)
        estimate = self._adapter.extend(shallow, position, self._adapter_cache, self._previous)
        self._previous = estimate
        return estimate

    def _shallow(self, token_ids: Sequence[int], position: int) -> Tensor:
        rows = embed(self._model.embedding, token_ids)
        layers = self._model.input_layers
        return run_layers(layers, rows, position, self._input_caches).float()

"""What is said in an audit, and the rows that say it at every depth where the model is cut."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hat.audit.cut_model import CutModel
from hat.audit.documents import Tokens
from hat.audit.scoring import Ids
from submodels.bundle.layers import LayerCache, embed, run_layers


@dataclass(frozen=True, slots=True)
class Spoken:
    """A document that a user sent, and the model's answer."""

    token_ids: Tokens
    num_prompt: int
    is_greedy: bool
    """Else at temperature 1."""

    @property
    def sent(self) -> Tokens:
        """The tokens whose rows go up: all but the last, which nothing follows."""
        return self.token_ids[:-1]

    @property
    def answer(self) -> Ids:
        """What the rows that come back are asked for."""
        return np.array(self.token_ids[self.num_prompt :])

    @property
    def returned(self) -> slice:
        """The rows that come back."""
        return slice(self.num_prompt - 1, len(self.token_ids) - 1)


@dataclass(frozen=True, slots=True)
class Known:
    """Pairs that an attacker knows, in an order that was drawn."""

    rows: dict[int, Tensor]
    """By depth, each `[n, H]`."""
    token_ids: Tensor
    """`[n]`: each row's own token."""
    following: Tensor
    """`[n]`: the token behind it."""


@dataclass(frozen=True, slots=True)
class Material:
    """All that cells look at."""

    documents: Sequence[Spoken]
    rows: Sequence[dict[int, Tensor]]
    """By document and depth, `[T, H]`, of the tokens that are sent."""
    known: Known
    typical: dict[int, Tensor]
    """By depth, rows of the text that a split measures its codecs with."""


def answered(
    model: CutModel, prompt: Tokens, num_tokens: int, is_greedy: bool, chance: torch.Generator
) -> Spoken:
    """A prompt and what the model says to it; an end of text does not end it."""
    caches = [LayerCache() for _ in model.layers]
    token_ids, position = list(prompt), 0
    for _ in range(num_tokens):
        new = embed(model.table, token_ids[position:])
        rows = run_layers(model.layers, new, position, caches)
        position = len(token_ids)
        logits = model.head(rows[-1:])[0]
        token_ids.append(chosen(logits[None], is_greedy, chance)[0])
    return Spoken(tuple(token_ids), len(prompt), is_greedy)


def chosen(logits: Tensor, is_greedy: bool, chance: torch.Generator) -> list[int]:
    """Tokens of logits `[T, V]`: the best ones, or drawn at temperature 1."""
    if is_greedy:
        best: list[int] = logits.argmax(-1).tolist()
        return best
    drawn: list[int] = torch.multinomial(logits.softmax(-1), 1, generator=chance)[:, 0].tolist()
    return drawn


def known_pairs(
    model: CutModel,
    windows: Sequence[Tokens],
    depths: Iterable[int],
    most: int,
    seed: int,
    done: Callable[[], None],
) -> Known:
    """Pairs of texts, all tokens but each window's last; `done` is called after each window."""
    parts: dict[int, list[Tensor]] = {depth: [] for depth in depths}
    for window in windows:
        for depth, each in model.traced(window[:-1], parts).items():
            parts[depth].append(each)
        done()
    own = torch.tensor([token for window in windows for token in window[:-1]])
    following = torch.tensor([token for window in windows for token in window[1:]])
    order = torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))[:most]
    rows = {depth: torch.cat(each)[order] for depth, each in parts.items()}
    return Known(rows, own[order], following[order])

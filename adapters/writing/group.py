"""A group of texts, written side by side: a slot that is done takes the next of them.

What a group writes depends on its own texts alone, so that work that was interrupted
between two groups ends with the same ones.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from adapters.writing.decoder import BatchDecoder
from adapters.writing.draft import Chance, Writing


class Growing(Protocol):
    """A text while it is written."""

    token_ids: list[int]
    num_fed: int
    """Of these, read by the model; those of a prompt are read before anything is fed."""
    has_prompt: bool
    """Whether it begins with a prompt of its own, not with the opening."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be written."""
        ...

    def take(self, token: int) -> None:
        """Add the token that was chosen behind the last."""
        ...


T = TypeVar("T", bound=Growing)


def write_group(
    decoder: BatchDecoder,
    opening: Sequence[int],
    texts: Sequence[T],
    choose: Callable[[Tensor, Sequence[T]], Sequence[int]],
    finished: Callable[[T], None] = lambda one: None,
) -> None:
    """Write all of them to their ends; each is told when it is over.

    `opening` is what every text begins with that does not bring a prompt of its own. `choose` gives
    a token for each row of logits `[N, V]` behind one of `N` texts. The decoder's slots hold
    nothing of before.
    """
    waiting = deque(texts)
    running: list[T] = []
    decoder.read(opening[:-1], slice(0, decoder.num_slots))
    while waiting or running:
        while waiting and len(running) < decoder.num_slots:
            running.append(waiting.popleft())
            _begin(decoder, len(running) - 1, running[-1])
        _one_step(decoder, running, choose)
        for slot in reversed(range(len(running))):
            if running[slot].is_over:
                finished(running[slot])
                _leave(decoder, running, waiting, slot)


def _begin(decoder: BatchDecoder, slot: int, text: Growing) -> None:
    """Read a prompt of its own; the opening is in every slot already."""
    if text.has_prompt:
        decoder.read(text.token_ids[: text.num_fed], slice(slot, slot + 1))


def _leave(decoder: BatchDecoder, running: list[T], waiting: deque[T], slot: int) -> None:
    """Free a slot: for the next that waits, else for the last that runs, so that none is idle."""
    if waiting:
        running[slot] = waiting.popleft()
        _begin(decoder, slot, running[slot])
        return
    last = running.pop()
    if slot < len(running):
        running[slot] = last
        decoder.move(len(running), slot)


def _one_step(
    decoder: BatchDecoder,
    running: Sequence[T],
    choose: Callable[[Tensor, Sequence[T]], Sequence[int]],
) -> None:
    rows = decoder.step(
        [one.token_ids[one.num_fed] for one in running], [one.num_fed for one in running]
    )
    for one in running:
        one.num_fed += 1
    # Where the last token was fed, the next has to be chosen.
    slots = [slot for slot, one in enumerate(running) if one.num_fed == len(one.token_ids)]
    if slots:
        choosing = [running[slot] for slot in slots]
        tokens = choose(decoder.logits(rows[slots]), choosing)
        for one, token in zip(choosing, tokens, strict=True):
            one.take(token)


def choose_by_chance(logits: Tensor, writings: Sequence[Writing]) -> list[int]:
    """A token for each conversation, by its chance."""
    return choose(logits, [one.chance for one in writings])


def choose(logits: Tensor, chances: Sequence[Chance | None]) -> list[int]:
    """A token for each row of logits `[N, V]`: by its chance, or the likeliest where None."""
    tokens = logits.argmax(-1)
    drawn = [(row, chance) for row, chance in enumerate(chances) if chance is not None]
    if drawn:
        rows = [row for row, _ in drawn]
        numbers = np.array([(one.temperature, one.uniform) for _, one in drawn], np.float64)
        temperatures, uniforms = torch.from_numpy(numbers).to(logits.device).unsqueeze(2).unbind(1)
        sums = (logits[rows] / temperatures.float()).softmax(-1).double().cumsum(-1)
        found = torch.searchsorted(sums, uniforms * sums[:, -1:], right=True)[:, 0]
        tokens[rows] = found.clamp(max=logits.shape[1] - 1)
    return [int(token) for token in tokens.tolist()]

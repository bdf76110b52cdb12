"""A group of conversations, written side by side: a slot that is done takes the next of them.

What a group writes depends on its own conversations alone, so that work that was interrupted
between two groups ends with the same conversations.
"""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from adapters.writing.decoder import BatchDecoder
from adapters.writing.draft import Chance, Writing


def write_group(
    decoder: BatchDecoder,
    opening: Sequence[int],
    writings: Sequence[Writing],
    finished: Callable[[Writing], None],
) -> None:
    """Write all of them to their ends; each is told when it is over.

    `opening` is what every conversation begins with that does not bring a prompt of its own. The
    decoder's slots hold nothing of before. The longest come first: side by side they are no
    burden to short ones, and none of them is left alone at the end.
    """
    waiting = deque(sorted(writings, key=lambda one: -one.expected_tokens))
    running: list[Writing] = []
    decoder.read(opening[:-1], slice(0, decoder.num_slots))
    while waiting or running:
        while waiting and len(running) < decoder.num_slots:
            running.append(waiting.popleft())
            _begin(decoder, len(running) - 1, running[-1])
        _one_step(decoder, running)
        for slot in reversed(range(len(running))):
            if running[slot].is_over:
                finished(running[slot])
                _leave(decoder, running, waiting, slot)


def _begin(decoder: BatchDecoder, slot: int, writing: Writing) -> None:
    """Read a prompt of its own; the opening is in every slot already."""
    if writing.has_prompt:
        decoder.read(writing.token_ids[: writing.num_fed], slice(slot, slot + 1))


def _leave(
    decoder: BatchDecoder,
    running: list[Writing],
    waiting: deque[Writing],
    slot: int,
) -> None:
    """Free a slot: for the next that waits, else for the last that runs, so that none is idle."""
    if waiting:
        running[slot] = waiting.popleft()
        _begin(decoder, slot, running[slot])
        return
    last = running.pop()
    if slot < len(running):
        running[slot] = last
        decoder.move(len(running), slot)


def _one_step(decoder: BatchDecoder, running: Sequence[Writing]) -> None:
    rows = decoder.step(
        [one.token_ids[one.num_fed] for one in running], [one.num_fed for one in running]
    )
    choosing = [slot for slot, one in enumerate(running) if one.wants_choice]
    chances = [running[slot].chance for slot in choosing]
    for one in running:
        one.fed()
    if choosing:
        tokens = choose(decoder.logits(rows[choosing]), chances)
        for slot, token in zip(choosing, tokens, strict=True):
            running[slot].take(token)


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

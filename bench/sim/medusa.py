"""Medusa-1 heads and their tree, in the place of the production drafter.

The tree's nodes all go up and are all verified; of them the longest right path stays. What a
session sees is a draft as long as the tree has nodes, which begins with that path: rows, bytes
and positions are those of a tree, and so is the number of tokens that a round brings.
"""

from collections.abc import Sequence
from random import Random
from typing import cast

from bench.sim.acceptance import Text
from bench.sim.device_engine import SimEngine
from device_runtime.drafting.adapter import AdapterDrafter
from device_runtime.engines.engine import SequenceId


class TreeDrafter:
    """Has the methods of `AdapterDrafter` that a driver without parallel drafting calls."""

    num_ahead_tokens = 0
    num_kept_tokens = 0

    def __init__(self, text: Text, right: Sequence[float], draws: Random) -> None:
        """`right[i]` is the chance that head i has the target's token in the tree, given the
        heads before it had."""
        self._text = text
        self._right = right
        self._draws = draws

    def propose(
        self, engine: SimEngine, sequence: SequenceId, text: Sequence[int], num_tokens: int
    ) -> tuple[int, ...]:
        """A tree of `num_tokens` nodes."""
        engine.spend(engine.times.draft_call_s)
        num_right = 0
        while num_right < len(self._right) and self._draws.random() < self._right[num_right]:
            num_right += 1
        first = len(text)
        num_right = min(num_right, num_tokens)
        path = [self._text.truth(first + i) for i in range(num_right)]
        wrong = [self._text.wrong(first + i) for i in range(num_right, num_tokens)]
        return (*path, *wrong)

    def decided(self, token_ids: Sequence[int]) -> None:
        """Nothing to remember."""

    def as_adapter(self) -> AdapterDrafter:
        """The type that `Drafting` asks for."""
        return cast(AdapterDrafter, self)


def heads_for(accept_length: float, num_heads: int) -> tuple[float, ...]:
    """The same chance for every head, so that a round brings `accept_length` tokens."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = 1.0 + sum(middle ** (i + 1) for i in range(num_heads))
        low, high = (middle, high) if mean < accept_length else (low, middle)
    return (low,) * num_heads

"""Guesses without a model: what followed the same words before, in this text and in others."""

from collections.abc import Sequence

from device_runtime.drafting.guess import Guess
from device_runtime.drafting.suffix.guessing import guesses
from device_runtime.drafting.suffix.index import LONGEST_MATCH, SuffixIndex, slots_for
from device_runtime.drafting.suffix.memory import SuffixMemory

_MAX_OWN_TOKENS = 131_072
"""Of a longer text the end is looked through."""


class SuffixGuesses:
    """Guesses for one generation, out of its own text and a memory of others, if there is one."""

    def __init__(self, memory: SuffixMemory | None) -> None:
        self._memory = None if memory is None else memory.index
        self._own = SuffixIndex(1, 1)
        self._tail: tuple[int, ...] = ()

    def begin(self, prompt_ids: Sequence[int]) -> None:
        """Take the prompt; on the engine's thread."""
        num_slots = slots_for(min(2 * len(prompt_ids) + 512, _MAX_OWN_TOKENS))
        self._own = SuffixIndex(_MAX_OWN_TOKENS, num_slots)
        self.decided(prompt_ids)

    def decided(self, token_ids: Sequence[int]) -> None:
        """Take the tokens that follow; on the engine's thread."""
        self._own.extend(token_ids)
        self._tail = (*self._tail, *token_ids)[-LONGEST_MATCH:]

    def behind(self, begun: Sequence[int] = ()) -> tuple[Guess, ...]:
        """What may follow the text and a draft begun behind it; on the engine's thread."""
        return guesses(self._own, self._memory, self._tail, begun)

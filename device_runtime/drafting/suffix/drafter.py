"""Drafting without a model: what followed the same words before, in this text and in others."""

from collections.abc import Sequence

from device_runtime.drafting.guess import Guess, survivals
from device_runtime.drafting.protocol import NoDrafter
from device_runtime.drafting.suffix.guessing import SUFFIX_CHANCES, guesses
from device_runtime.drafting.suffix.index import LONGEST_MATCH, SuffixIndex, slots_for
from device_runtime.drafting.suffix.memory import SuffixMemory
from device_runtime.engines.engine import SequenceId, Workers

_MAX_OWN_TOKENS = 131_072
"""Of a longer text the end is looked through."""

_LEAST_CHANCE = 0.15
"""A row that is less often right than this costs more than it brings on most links."""


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


class SuffixDrafter(NoDrafter):
    """Drafts of one generation, as far as their chance is fair."""

    def __init__(self, memory: SuffixMemory | None) -> None:
        self._guesses = SuffixGuesses(memory)

    def begin(self, prompt_ids: Sequence[int]) -> None:
        self._guesses.begin(prompt_ids)

    def decided(self, token_ids: Sequence[int], deep: object) -> None:
        self._guesses.decided(token_ids)

    async def propose(
        self,
        workers: Workers,
        sequence: SequenceId,
        text: Sequence[int],
        num_tokens: int,
        num_undecided: int = 0,
    ) -> tuple[int, ...]:
        undecided = text[len(text) - num_undecided :]
        found = await workers.run(lambda _: self._guesses.behind(undecided))
        chances = survivals(found[:num_tokens], SUFFIX_CHANCES)
        return tuple(
            guess.token_id
            for guess, chance in zip(found, chances, strict=False)
            if chance >= _LEAST_CHANCE
        )

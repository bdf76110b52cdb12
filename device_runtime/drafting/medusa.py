"""Drafting with Medusa heads: a chain of guesses from the deep row of the last decided choice."""

from collections.abc import Sequence
from typing import Protocol

from device_runtime.drafting.protocol import NoDrafter
from device_runtime.engines.engine import Rows, SequenceId, Workers
from device_runtime.sampling.sampler import LogitsError, Sampler


class Heads(Protocol):
    """Heads that guess later tokens from one deep row."""

    @property
    def num_heads(self) -> int:
        """How many tokens can be guessed from one row."""
        ...

    def logits(self, deep: Rows, num_heads: int) -> Rows:
        """Logits `[num_heads, V]` of the first heads, from a deep row `[H]`."""
        ...


class MedusaDrafter(NoDrafter):
    """Drafts of one generation.

    The d-th head's guess is the token that the sampler would choose from its logits, d places on:
    the likeliest when greedy, else with that position's noise, as the target will. What penalties
    depend on is guessed too: the guesses before it stand in for the tokens between.
    """

    def __init__(self, heads: Heads, sampler: Sampler) -> None:
        self._heads = heads
        self._sampler = sampler
        self._deep: Rows | None = None
        self._given: tuple[int, ...] = ()

    def decided(self, token_ids: Sequence[int], deep: Rows) -> None:
        self._deep = deep

    @property
    def num_begun(self) -> int:
        """None: heads guess when they are asked."""
        return 0

    def go_on_behind(self, draft: Sequence[int]) -> None:
        """Heads look ahead from a deep row: behind a draft made elsewhere they say nothing."""
        self._given = tuple(draft)

    async def propose(
        self,
        workers: Workers,
        sequence: SequenceId,
        text: Sequence[int],
        num_tokens: int,
        num_undecided: int = 0,
    ) -> tuple[int, ...]:
        deep = self._deep
        given, self._given = self._given, ()
        if given:
            return given
        # Heads look ahead from a deep row, and of undecided tokens there is none.
        if deep is None or num_tokens == 0 or num_undecided > 0:
            return ()
        return await workers.run(lambda _: self._guesses(deep, num_tokens))

    def _guesses(self, deep: Rows, num_tokens: int) -> tuple[int, ...]:
        """Those of the first `num_tokens` heads; fewer where one finds nothing to choose."""
        guesses: list[int] = []
        for logits in self._heads.logits(deep, num_tokens):
            try:
                guesses.append(self._sampler.choose(logits, guesses))
            except LogitsError:
                break
        return tuple(guesses)

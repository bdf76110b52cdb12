"""Drafting with Medusa heads: a chain of guesses from the deep row of the last decided choice."""

from adapters.medusa_heads import MedusaHeads
from device_runtime.engines.engine import Rows
from device_runtime.sampling.sampler import LogitsError, Sampler


class MedusaDrafter:
    """Drafts of one generation; used on the engine's thread.

    The d-th head's guess is the token that the sampler would choose from its logits, d places on:
    the likeliest when greedy, else with that position's noise, as the target will. What penalties
    depend on is guessed too: the guesses before it stand in for the tokens between.
    """

    def __init__(self, heads: MedusaHeads, sampler: Sampler) -> None:
        self._heads = heads
        self._sampler = sampler
        self._deep: Rows | None = None

    def decided(self, deep: Rows) -> None:
        """Take the deep row `[H]` from which the text's last token was chosen."""
        self._deep = deep

    def propose(self, num_tokens: int) -> tuple[int, ...]:
        """The guesses of the first `num_tokens` heads; fewer where one finds nothing to choose."""
        if self._deep is None:
            return ()
        guesses: list[int] = []
        for logits in self._heads.logits(self._deep, num_tokens):
            try:
                guesses.append(self._sampler.choose(logits, guesses))
            except LogitsError:
                break
        return tuple(guesses)

"""Drafting with Medusa heads: a chain of guesses from the deep row of the last decided choice."""

from collections.abc import Callable, Sequence
from typing import Protocol

from device_runtime.drafting.building import Drafted, Steps
from device_runtime.drafting.protocol import NoDrafter
from device_runtime.engines.engine import DeviceEngine, Rows, SequenceId
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

    @property
    def num_heads(self) -> int:
        """Tokens of one pass."""
        return self._heads.num_heads

    def decided(self, token_ids: Sequence[int], deep: Rows) -> None:
        self._deep = deep

    def steps_behind(
        self, sequence: SequenceId, text: Sequence[int], num_undecided: int
    ) -> "tuple[MedusaSteps, Sequence[Drafted]]":
        """One pass of all heads; nothing behind undecided tokens, of which there is no deep row."""
        deep = None if num_undecided else self._deep
        return MedusaSteps(self._heads, self._sampler, deep), ()


class MedusaSteps(Steps):
    """All guesses of the heads in one pass, behind the text alone: they look ahead from its row."""

    def __init__(self, heads: Heads, sampler: Sampler, deep: Rows | None) -> None:
        self._heads = heads
        self._sampler = sampler
        self._deep = deep

    def step(
        self, engine: DeviceEngine, draft: Sequence[int], take: Callable[[Drafted], bool]
    ) -> None:
        if self._deep is None or draft:
            return
        guesses: list[int] = []
        for logits in self._heads.logits(self._deep, self._heads.num_heads):
            try:
                chosen = Drafted(*self._sampler.clear_choice(logits, guesses))
            except LogitsError:
                return
            if not take(chosen):
                return
            guesses.append(chosen.token_id)

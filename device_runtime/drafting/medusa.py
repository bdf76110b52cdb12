"""Drafting with Medusa heads: a tree of guesses from the deep row of the last decided choice."""

from collections.abc import Sequence

from adapters.medusa_heads import MedusaHeads
from device_runtime.engines.engine import Rows
from device_runtime.sampling.sampler import LogitsError, Sampler
from wire.trees import Parents

Tree = tuple[tuple[int, ...], Parents]
"""Drafted tokens `[k]`, and the parents `[k + 1]` of the text's last token and of them."""


class MedusaDrafter:
    """Trees of one generation; used on the engine's thread.

    The d-th head's guesses are the tokens that the sampler would choose first from its logits, d
    places on: the likeliest when greedy, else with that position's noise, as the target will. What
    penalties depend on is guessed too: the heads' first choices stand in for the tokens between.
    """

    def __init__(self, heads: MedusaHeads, sampler: Sampler) -> None:
        self._heads = heads
        self._sampler = sampler
        self._deep: Rows | None = None
        depths = [0]
        num_ranks = [0] * len(heads.blocks)
        for node in heads.tree:
            depth = depths[node.parent]
            depths.append(depth + 1)
            num_ranks[depth] = max(num_ranks[depth], node.rank + 1)
        self._depths = depths[1:]
        self._num_ranks = num_ranks

    def decided(self, deep: Rows) -> None:
        """Take the deep row `[H]` from which the text's last token was chosen."""
        self._deep = deep

    def propose(self, num_tokens: int) -> Tree:
        """A tree of at most `num_tokens` guesses behind the text."""
        guesses = self._guesses() if self._deep is not None else []
        tokens: list[int] = []
        parents = [0]
        rows = {0: 0}
        for index, (node, depth) in enumerate(zip(self._heads.tree, self._depths, strict=True)):
            is_known = depth <= len(guesses) and node.rank < len(guesses[depth - 1])
            if is_known and node.parent in rows and len(tokens) < num_tokens:
                tokens.append(guesses[depth - 1][node.rank])
                parents.append(rows[node.parent])
                rows[index + 1] = len(tokens)
        return tuple(tokens), tuple(parents) if tokens else ()

    def _guesses(self) -> list[Sequence[int]]:
        """Each head's tokens, best first."""
        assert self._deep is not None, "rows come before guesses"
        found: list[Sequence[int]] = []
        for logits, num_ranks in zip(self._heads.logits(self._deep), self._num_ranks, strict=True):
            draft = [guesses[0] for guesses in found]
            try:
                guesses = self._sampler.choices(logits, num_ranks, draft)
            except LogitsError:
                break
            if not guesses:
                break
            found.append(guesses)
        return found

"""A grammar for the integer model: skeletons that are forced, with a choice between them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device_runtime.generation.grammar import GrammarError
from tests.support.fake_model import VOCAB_SIZE

END = 0


@dataclass(frozen=True)
class FakeGrammar:
    """Fields: each is `forced` tokens and then one of the `free` ones. Behind `num_fields`: END."""

    forced: tuple[int, ...]
    free: tuple[int, ...]
    num_fields: int

    def start(self) -> "FakeConstraint":
        return FakeConstraint(self)

    def next(self, place: int) -> tuple[int, ...]:
        """What may stand at this place of a text."""
        length = len(self.forced) + 1
        if place >= length * self.num_fields:
            return (END,)
        place %= length
        return (self.forced[place],) if place < len(self.forced) else self.free


class FakeConstraint:
    """Checks itself that nobody asks about what it refuses."""

    def __init__(self, grammar: FakeGrammar) -> None:
        self._grammar = grammar
        self._committed: list[int] = []

    def allowed(self, draft: Sequence[int] = ()) -> NDArray[np.bool_]:
        mask = np.zeros(VOCAB_SIZE, dtype=np.bool_)
        if self._fits(draft) and END not in draft:
            mask[list(self._grammar.next(len(self._committed) + len(draft)))] = True
        return mask

    def forced(self, draft: Sequence[int] = ()) -> tuple[int, ...]:
        tokens: list[int] = []
        if not self._fits(draft) or END in draft:
            return ()
        while END not in tokens:
            allowed = self._grammar.next(len(self._committed) + len(draft) + len(tokens))
            if len(allowed) > 1:
                break
            tokens += allowed
        return tuple(tokens)

    def num_valid(self, draft: Sequence[int], tokens: Sequence[int]) -> int:
        for num in range(len(tokens)):
            if not self._fits((*draft, *tokens[: num + 1])):
                return num
        return len(tokens)

    def commit(self, token_id: int) -> None:
        if token_id not in self._grammar.next(len(self._committed)):
            raise GrammarError("refused")
        self._committed.append(token_id)

    def _fits(self, draft: Sequence[int]) -> bool:
        if END in draft[:-1]:
            return False
        begin = len(self._committed)
        return all(token in self._grammar.next(begin + n) for n, token in enumerate(draft))

"""What a generation may say: the tokens that a grammar lets follow a text and a draft."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class GrammarError(Exception):
    """A grammar that cannot be followed, from the start or any more; `reason` is safe to show."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Constraint(Protocol):
    """One generation's way through its grammar; used by one thread at a time.

    Every question is about the place behind all that is committed and a draft. What a draft left
    behind is forgotten with the next question. Where the grammar allows no more text, it allows
    the ends of the text, and behind an end nothing.
    """

    def allowed(self, draft: Sequence[int] = ()) -> NDArray[np.bool_]:
        """Which tokens may come next, `[V]`: none behind a draft that the grammar refuses.

        Raises:
            GrammarError: it has become too complex to be followed.
        """
        ...

    def forced(self, draft: Sequence[int] = ()) -> tuple[int, ...]:
        """The tokens that must come next; none where there is a choice."""
        ...

    def num_valid(self, draft: Sequence[int], tokens: Sequence[int]) -> int:
        """How many of the tokens may follow the draft, one after the other."""
        ...

    def commit(self, token_id: int) -> None:
        """A token was decided.

        Raises:
            GrammarError: the grammar does not allow it.
        """
        ...


class Grammar(Protocol):
    """A compiled grammar, for any number of generations."""

    def start(self) -> Constraint:
        """The way of one of them, at its beginning."""
        ...

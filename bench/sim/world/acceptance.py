"""What the target says and what a draft model guesses, without a model: a text known beforehand.

The target's token at each place of a text is fixed, and every wrong guess is another number.
Whether a guess is right, and whether the draft model is sure enough to guess at all, are drawn
from a table; the production code compares, keeps and cuts as ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from bench.sim.world.text import truth, wrong


@dataclass(frozen=True, slots=True)
class AcceptanceTable:
    """Chances by position in a draft; the last of each holds for what comes after.

    `sure` is the chance that the draft model guesses, where all before was right; `sure_astray`
    the same behind a wrong guess; `right` that a guess behind right ones is the target's token.
    `bonus` are the chances that the target's token behind a whole draft is the draft model's
    first choice there, or its second.
    """

    sure: tuple[float, ...]
    sure_astray: tuple[float, ...]
    right: tuple[float, ...]
    bonus: tuple[float, float] = (0.5, 0.15)
    source: str = "assumed"

    def sure_at(self, index: int, is_astray: bool) -> float:
        """The chance of a guess at a position."""
        chances = self.sure_astray if is_astray else self.sure
        return chances[min(index, len(chances) - 1)]

    def right_at(self, index: int) -> float:
        """The chance that the guess at a position is right."""
        return self.right[min(index, len(self.right) - 1)]


NEVER = AcceptanceTable((0.0,), (0.0,), (0.0,))


def from_counts(
    num_rounds: int,
    drafted: Sequence[int],
    accepted: Sequence[int],
    source: str,
    cut_share: float = 0.0,
) -> AcceptanceTable:
    """The table that gives, on average, just these counts of a live run.

    Being sure is taken to be as likely behind right guesses as behind wrong ones where the counts
    allow it; where they do not, guesses behind right ones are all right and sureness makes up.
    `cut_share` of the drafts end at any position because the answer does, which is nobody's doubt.

    Raises:
        ValueError: nothing was drafted.
    """
    if num_rounds < 1 or not drafted or not drafted[0]:
        raise ValueError("expected counts of drafted tokens")
    sure, astray, right = [], [], []
    uncut = 1.0 - cut_share
    on_path, off_path = num_rounds * uncut, 0.0
    for num_drafted, num_accepted in zip(drafted, accepted, strict=True):
        if num_drafted == 0 or on_path < 1.0:
            break
        sure_path = sure_off = min(1.0, num_drafted / (on_path + off_path))
        if num_accepted > on_path * sure_path:
            sure_path = min(1.0, num_accepted / on_path)
            rest = max(0.0, num_drafted - on_path * sure_path)
            sure_off = min(1.0, rest / off_path) if off_path else 0.0
        sure.append(min(1.0, sure_path))
        astray.append(min(1.0, sure_off))
        right.append(min(1.0, num_accepted / max(on_path * sure_path, 1e-9)))
        off_path = (num_drafted - num_accepted) * uncut
        on_path = num_accepted * uncut
    # Beyond what was seen nothing is drafted: the live policy had its reasons.
    sure.append(0.0)
    astray.append(0.0)
    return AcceptanceTable(tuple(sure), tuple(astray), tuple(right), source=source)


def geometric(accept_length: float, sure: float, max_tokens: int, source: str) -> AcceptanceTable:
    """A table with the same chances everywhere whose rounds bring `accept_length` tokens.

    Drafts of at most `max_tokens`, each guess made with the chance `sure`. The mean counts the
    target's own token, as the papers do.

    Raises:
        ValueError: no chance below 1 gives so many.
    """
    low, high = 0.0, 1.0
    if not 1.0 <= accept_length < 1.0 + sum(sure ** (i + 1) for i in range(max_tokens)):
        raise ValueError(f"expected a reachable accept length, got {accept_length}")
    for _ in range(60):
        middle = (low + high) / 2
        mean = 1.0 + sum((sure * middle) ** (i + 1) for i in range(max_tokens))
        low, high = (middle, high) if mean < accept_length else (low, middle)
    return AcceptanceTable((sure,), (sure,), (low,), source=source)


def tree(accept_length: float, num_heads: int, source: str) -> AcceptanceTable:
    """A table for drafts of a Medusa tree's size whose rounds bring `accept_length` tokens.

    Of a tree the longest right path stays, as far as there are heads; the rest of its nodes is
    verified in vain. So drafts are never cut, and begin with that path.
    """
    (right,) = geometric(accept_length, 1.0, num_heads, source).right
    return AcceptanceTable((1.0,), (1.0,), (*(right,) * num_heads, 0.0), source=source)


class Guesses:
    """The draft model of one request: what it would choose, by a table and draws of its own."""

    def __init__(self, table: AcceptanceTable, draws: Random) -> None:
        self._table = table
        self._draws = draws

    def next_choices(
        self, last_token: int, position: int, index: int, must: bool
    ) -> tuple[int, ...]:
        """The first and second choice for a position behind `last_token`; none if not sure enough.

        `index` is the position in the draft. With `must` the choices are those behind a draft's
        end, however sure.
        """
        table, draw = self._table, self._draws.random()
        is_astray = last_token != truth(position - 1)
        right, other = truth(position), wrong(position)
        if must:
            first, second = table.bonus
            if is_astray or draw >= first + second:
                return other, wrong(position, 1)
            return (right, other) if draw < first else (other, right)
        if self._draws.random() >= table.sure_at(index, is_astray):
            return ()
        is_right = not is_astray and draw < table.right_at(index)
        return right if is_right else other, wrong(position, 1)

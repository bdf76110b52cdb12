"""Which drafted tokens stay: one rule for greedy and sampled text, and for every drafter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wire.trees import Parents


@dataclass(frozen=True, slots=True)
class Verdict:
    """`num_accepted` drafted tokens stay and `next_token` follows them.

    `next_token` is the recovered token after a rejection, the bonus token after none.
    """

    num_accepted: int
    next_token: int


def accept(draft: Sequence[int], target: Sequence[int]) -> Verdict:
    """Keep the longest draft prefix the target would have chosen itself.

    Args:
        draft: Drafted token ids, shape [k].
        target: The target's choices, shape [k + 1]; `target[i]` is its choice after `draft[:i]`,
            made with the noise of that position.

    Raises:
        ValueError: `target` is not exactly one longer than `draft`.

    Source: Leviathan et al., 2023 (arXiv:2211.17192), algorithm 1 at temperature 0; for sampled
    text the coupling of Daliri et al., 2024 (arXiv:2408.07978), since the target's choice is a
    function of the position's noise.
    """
    if len(target) != len(draft) + 1:
        raise ValueError(f"expected {len(draft) + 1} target tokens, got {len(target)}")
    num_accepted = 0
    while num_accepted < len(draft) and draft[num_accepted] == target[num_accepted]:
        num_accepted += 1
    return Verdict(num_accepted, target[num_accepted])


def walk(
    draft: Sequence[int],
    choose: Callable[[int], int],
    stop_token_ids: frozenset[int],
    parents: Parents = (),
) -> tuple[int, ...]:
    """The tokens decided in a round, at least one: `accept`, asking for no choice it can spare.

    `choose(i)` is the target's choice after `draft[:i]`. It is called in order of `i`, and
    `choose(i + 1)` only if choice `i` equals `draft[i]`, so whatever it remembers of its own
    earlier choices (penalty counts) is the accepted prefix and nothing else. A stop token ends
    the walk: what was drafted after it is not wanted.

    With `parents`, one for the text's last token and one per drafted token, the draft is a tree and
    `choose(row)` the choice behind the row: a drafted token is kept if and only if it is what
    the target chooses behind the row it follows, the same rule.
    """
    decided: list[int] = []
    row: int | None = 0
    while row is not None:
        token = choose(row)
        decided.append(token)
        row = None if token in stop_token_ids else next_row(draft, parents, row, token)
    return tuple(decided)


def next_row(draft: Sequence[int], parents: Parents, row: int, token: int) -> int | None:
    """The row of the drafted token that is `token` and follows `row`; None where there is none.

    Row 0 is the text's last token, row i `draft[i - 1]`.
    """
    if parents:
        rows = (later for later in range(row + 1, len(parents)) if parents[later] == row)
        return next((later for later in rows if draft[later - 1] == token), None)
    return row + 1 if row < len(draft) and draft[row] == token else None

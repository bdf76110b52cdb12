"""Which drafted tokens stay: one rule for greedy and sampled text, and for every drafter."""

from collections.abc import Callable, Sequence


def walk(
    draft: Sequence[int], choose: Callable[[int], int], stop_token_ids: frozenset[int]
) -> tuple[int, ...]:
    """The tokens decided in a round: the drafted ones that stay, then one of the target's own.

    A drafted token stays while it is what the target chooses in its place. The target's own token
    is the recovered one after a rejection, the bonus token after none.

    `choose(i)` is the target's choice after `draft[:i]`, made with the noise of that position. It
    is called in order of `i`, and `choose(i + 1)` only if choice `i` equals `draft[i]`, so whatever
    it remembers of its own earlier choices (penalty counts) is the accepted prefix and nothing
    else. A stop token ends the walk: what was drafted after it is not wanted.

    Source: Leviathan et al., 2023 (arXiv:2211.17192), algorithm 1 at temperature 0; for sampled
    text the coupling of Daliri et al., 2024 (arXiv:2408.07978), since the target's choice is a
    function of the position's noise.
    """
    decided: list[int] = []
    for index in range(len(draft) + 1):
        token = choose(index)
        decided.append(token)
        is_accepted = index < len(draft) and token == draft[index]
        if not is_accepted or token in stop_token_ids:
            break
    return tuple(decided)

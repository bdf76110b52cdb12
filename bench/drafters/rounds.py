"""Rounds as the device's session has them, along a text that is known. Pure arithmetic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

Draft = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """An answer, as far as rounds need it: its tokens, what it could have had at most, its end."""

    answer: Sequence[int]
    max_tokens: int
    stop_token_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class Round:
    """One verification: tokens drafted and accepted, and those it added to the text."""

    num_drafted: int
    num_accepted: int
    num_tokens: int


def one_round(known: Known, start: int, draft: Draft, most: int) -> Round:
    """What a draft brings behind token `start` of the answer, at most `most` tokens of it.

    As in `device_runtime.session.session`: the last token there may be is never drafted, a draft
    ends with its first stop token, and so does the text.
    """
    num_left = known.max_tokens - start - 1
    draft = _until_stop(draft[: max(0, min(most, num_left - 1))], known.stop_token_ids)
    rest = known.answer[start + 1 :]
    pairs = zip(draft, rest, strict=False)
    num_accepted = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return Round(len(draft), num_accepted, min(num_accepted + 1, len(rest)))


def walk(known: Known, drafts: Sequence[Draft], most: int) -> list[Round]:
    """The rounds that follow each other to the end of the answer, each with the draft from its
    start. The answer's first token comes with the prompt, in no round.
    """
    rounds, start = [], 0
    while start < len(known.answer) - 1:
        rounds.append(one_round(known, start, drafts[start], most))
        start += rounds[-1].num_tokens
    return rounds


@dataclass(frozen=True, slots=True)
class Reached:
    """Of drafts that had a token at a place and were right before it: how many, and right there.

    Index i of both is about the (i + 1)-th token of a draft.
    """

    tried: tuple[int, ...]
    right: tuple[int, ...]

    @property
    def shares(self) -> list[float | None]:
        """Share right at each place; None where nothing was tried."""
        pairs = zip(self.tried, self.right, strict=True)
        return [right / tried if tried else None for tried, right in pairs]


def reached_everywhere(known: Known, drafts: Sequence[Draft], most: int) -> Reached:
    """How far drafts get from every start, not only from those where a round began."""
    tried, right = [0] * most, [0] * most
    for start, draft in enumerate(drafts):
        one = one_round(known, start, draft, most)
        for place in range(min(one.num_accepted + 1, one.num_drafted)):
            tried[place] += 1
            right[place] += place < one.num_accepted
    return Reached(tuple(tried), tuple(right))


def summed(parts: Sequence[Reached]) -> Reached:
    """All of them together."""
    tried = [sum(each) for each in zip(*(part.tried for part in parts), strict=True)]
    right = [sum(each) for each in zip(*(part.right for part in parts), strict=True)]
    return Reached(tuple(tried), tuple(right))


@dataclass(frozen=True, slots=True)
class Figures:
    """Of all rounds of some prompts. Standard error over prompts, of a ratio of sums; None of one.

    `accepted_share`: accepted of drafted tokens, None where nothing was drafted.
    """

    num_prompts: int
    num_rounds: int
    tokens_per_round: float
    standard_error: float | None
    drafted_per_round: float
    accepted_share: float | None


def figures(by_prompt: Sequence[Sequence[Round]]) -> Figures | None:
    """Figures of the rounds of each prompt; None without a round.

    Source of the standard error: Cochran, Sampling Techniques, 3rd edition, 1977, section 2.11.
    """
    walked = [rounds for rounds in by_prompt if rounds]
    num_rounds = sum(map(len, walked))
    if num_rounds == 0:
        return None
    tokens = [sum(one.num_tokens for one in rounds) for rounds in walked]
    per_round = sum(tokens) / num_rounds
    squares = sum(
        (own - per_round * len(rounds)) ** 2 for own, rounds in zip(tokens, walked, strict=True)
    )
    num = len(walked)
    error = math.sqrt(squares * num / (num - 1)) / num_rounds if num > 1 else None
    drafted = sum(one.num_drafted for rounds in walked for one in rounds)
    accepted = sum(one.num_accepted for rounds in walked for one in rounds)
    return Figures(
        num_prompts=num,
        num_rounds=num_rounds,
        tokens_per_round=per_round,
        standard_error=error,
        drafted_per_round=drafted / num_rounds,
        accepted_share=accepted / drafted if drafted else None,
    )


def _until_stop(draft: Draft, stop_token_ids: frozenset[int]) -> Draft:
    for index, token in enumerate(draft):
        if token in stop_token_ids:
            return draft[: index + 1]
    return draft

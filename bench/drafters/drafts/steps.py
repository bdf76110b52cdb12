"""What an adapter says from every place of a text, step by step, and how clear each choice is.

A draft may hold guesses of others among its own tokens. Where all of them are right, what the
adapter says next is what it says behind the text's own tokens; so it is asked twice, fed with its
own choices and fed with the text's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.data.chains import Drafts
from adapters.data.choosing import Choice
from bench.drafters.texts.kept import Text
from bench.drafters.texts.scoring import Scores
from device_runtime.drafting.building import Drafted

Ask = Callable[[Text, Choice, int], Drafts]
"""Drafts of an adapter from every start of a text, by a choice, of so many tokens."""


@dataclass(frozen=True, slots=True)
class KnownSteps:
    """By start, then by place: fed with the adapter's own choices, and with the text's tokens."""

    own: Sequence[Sequence[Drafted]]
    along: Sequence[Sequence[Drafted]]

    def behind(self, start: int, draft: Sequence[int], text: Sequence[int]) -> Drafted | None:
        """What it says behind a start and a draft; `text` is what truly follows the start.

        Behind wrong tokens of others, what it says behind its own: none of it can count. None
        where nothing is known that far.
        """
        place = len(draft)
        is_right = list(draft) == list(text[:place])
        steps = (self.along if is_right else self.own)[start]
        return steps[place] if place < len(steps) else None


class Listening:
    """A choice for an adapter's drafts from all starts of a text, that remembers what was said.

    It is asked either for the first place of all starts, in their order, then for the second of
    all, and so on; or one by one, for `num_tokens` places of one start after the other. With
    `is_along` it answers with the text's tokens.
    """

    def __init__(self, text: Text, scores: Scores, num_tokens: int, is_along: bool) -> None:
        self._text = text
        self._token_ids = [*text.case.token_ids, *text.answer]
        self._scores = scores
        self._num_tokens = num_tokens
        self._is_along = is_along
        self._by_first: dict[int, list[Drafted]] = {}
        self._is_one_by_one: bool | None = None
        self._place, self._last, self._num_asked = 0, -1, 0

    def steps(self) -> list[list[Drafted]]:
        """By start."""
        first = len(self._text.case.token_ids) + 1
        return [self._by_first[first + start] for start in range(self._text.num_starts)]

    def __call__(
        self, positions: Tensor, logits: Tensor, vocabulary: Tensor | None = None
    ) -> Tensor:
        if self._is_one_by_one is None:
            self._is_one_by_one = len(positions) == 1
        firsts = [position - self._place_of(position) for position in positions.tolist()]
        before = [self._before(first) for first in firsts]
        scores = self._scores(positions, logits, before, vocabulary)
        places = scores.argmax(-1)
        chosen = places if vocabulary is None else vocabulary[places]
        clear = scores.softmax(-1).amax(-1)
        for first, token, share in zip(firsts, chosen.tolist(), clear.tolist(), strict=True):
            self._by_first.setdefault(first, []).append(Drafted(token, share))
        if not self._is_along:
            return chosen
        known = zip(positions.tolist(), chosen.tolist(), strict=True)
        ids = self._token_ids
        return torch.tensor([ids[at] if at < len(ids) else token for at, token in known])

    def _place_of(self, position: int) -> int:
        """The place in its draft that a position is asked for."""
        if self._is_one_by_one:
            place = self._num_asked % self._num_tokens
            self._num_asked += 1
            return place
        self._place += position <= self._last
        self._last = position
        return self._place

    def _before(self, first: int) -> list[int]:
        """All tokens before the place that is asked for."""
        said = self._by_first.get(first, [])
        if self._is_along:
            return self._token_ids[: first + len(said)]
        return self._token_ids[:first] + [each.token_id for each in said]


def known_steps(text: Text, scores: Scores, num_tokens: int, ask: Ask) -> tuple[Drafts, KnownSteps]:
    """An adapter's own drafts along a text, and all that is known of its steps."""
    own, along = (Listening(text, scores, num_tokens, is_along) for is_along in (False, True))
    drafts = ask(text, own, num_tokens)
    if text.num_starts == 0:
        return drafts, KnownSteps((), ())
    ask(text, along, num_tokens)
    return drafts, KnownSteps(own.steps(), along.steps())

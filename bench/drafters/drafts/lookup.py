"""Drafts of what needs no model, from every place of a text."""

from collections.abc import Callable, Sequence
from typing import Protocol

from bench.drafters.rounds import Draft
from bench.drafters.texts.kept import Text
from device_runtime.drafting.ngram import PromptLookup
from device_runtime.drafting.suffix.guesses import SuffixGuesses


class Lookup(Protocol):
    """What drafts from the text alone."""

    def extend(self, token_ids: Sequence[int]) -> None:
        """Take the tokens that follow."""
        ...

    def propose(self, num_tokens: int) -> Sequence[int]:
        """At most so many tokens that may follow."""
        ...


class SuffixLookup:
    """Suffix drafts out of the text itself; what comes first is its prompt."""

    def __init__(self) -> None:
        self._guesses = SuffixGuesses(None)
        self._has_begun = False

    def extend(self, token_ids: Sequence[int]) -> None:
        """Take the tokens that follow."""
        if self._has_begun:
            self._guesses.decided(token_ids)
        else:
            self._guesses.begin(token_ids)
            self._has_begun = True

    def propose(self, num_tokens: int) -> Sequence[int]:
        """At most so many tokens that may follow."""
        return [guess.token_id for guess in self._guesses.behind()[:num_tokens]]


LOOKUPS: dict[str, Callable[[], Lookup]] = {"ngram": PromptLookup, "suffix": SuffixLookup}


def lookup_drafts(text: Text, new: Callable[[], Lookup], num_tokens: int) -> list[Draft]:
    """A draft of at most `num_tokens` behind every token of the answer but the last.

    Shorter drafts from the same place are the beginnings of longer ones.
    """
    lookup = new()
    lookup.extend(text.case.token_ids)
    drafts = []
    for token in text.answer[:-1]:
        lookup.extend([token])
        drafts.append(tuple(lookup.propose(num_tokens)))
    return drafts
